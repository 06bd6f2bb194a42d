import { spawn, type ChildProcess } from "node:child_process";
import { closeSync, existsSync, mkdirSync, openSync } from "node:fs";
import { join } from "node:path";
import { eventually } from "../../demo/lab/command.js";
import { callUnixJson } from "../../src/platform/unix-http-client.js";
import type { AgentControlPlane } from "./node-agent.js";

/** One control plane for the agents of all modes. */
export class ControlPlane implements AgentControlPlane {
  readonly config: string;
  readonly #state: string;
  readonly #run: string;
  #child: ChildProcess | undefined;

  constructor(
    private readonly meltemi: string,
    directory: string,
  ) {
    this.config = join(directory, "config");
    this.#state = join(directory, "state");
    this.#run = join(directory, "run");
    for (const path of [this.config, this.#state, this.#run])
      mkdirSync(path, { recursive: true, mode: 0o700 });
  }

  get address(): string {
    return `unix:${join(this.#run, "control-xds.sock")}`;
  }

  get root(): string {
    return join(this.#run, "root-cert.pem");
  }

  token(node: string): string {
    return join(this.#state, "tokens", node);
  }

  /** Resolves once it is ready and has made the tokens of these nodes. */
  async start(nodes: readonly string[]): Promise<void> {
    const log = openSync(join(this.#state, "control-plane.log"), "a");
    const places = ["--config", this.config, "--state-dir", this.#state, "--run-dir", this.#run];
    this.#child = spawn(
      process.execPath,
      [this.meltemi, "control-plane", ...places, "--listen", "none", "--log-format", "json"],
      { stdio: ["ignore", log, log] },
    );
    closeSync(log);
    const socketPath = join(this.#run, "control-admin.sock");
    await eventually("the control plane to be ready", async () => {
      const { ready } = (await callUnixJson({ socketPath, path: "/ready" })) as { ready: boolean };
      return (ready && nodes.every((node) => existsSync(this.token(node)))) || undefined;
    });
  }

  stop(): void {
    this.#child?.kill("SIGKILL");
  }
}
