/** A control plane as a process of its own, and the CLI that asks it. */
import { execFile, spawn, type ChildProcess } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { eventually } from "./eventually.js";

export const meltemi = fileURLToPath(new URL("../../bin/meltemi", import.meta.url));

export interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

export class ControlPlaneProcess {
  readonly directory = mkdtempSync(join(tmpdir(), "meltemi-cp-"));
  readonly config = join(this.directory, "config");
  readonly state = join(this.directory, "state");
  readonly run = join(this.directory, "run");
  /** What it has written to standard output and standard error. */
  log = "";
  #child: ChildProcess | undefined;

  constructor() {
    mkdirSync(this.config);
  }

  /** Writes a file of its configuration. */
  write(name: string, text: string): void {
    writeFileSync(join(this.config, name), text);
  }

  /** Resolves when it is ready. */
  async start(...extra: readonly string[]): Promise<void> {
    const places = ["--config", this.config, "--state-dir", this.state, "--run-dir", this.run];
    const listen = ["--listen", `127.0.0.1:${await freePort()}`];
    const child = spawn(process.execPath, [
      ...[meltemi, "control-plane", ...places, ...listen],
      ...["--rotation-settle-ms", "0", "--log-format", "json", ...extra],
    ]);
    for (const stream of [child.stdout, child.stderr])
      stream.on("data", (chunk: Buffer) => (this.log += chunk.toString()));
    this.#child = child;
    await eventually("the control plane to be ready", async () =>
      (await this.cli("status")).stdout.includes("\nyes "),
    );
  }

  /** Its exit code, once it has ended of the signal. */
  end(signal: NodeJS.Signals): Promise<number | null> {
    const child = this.#child;
    return new Promise((resolve) => {
      if (!child || child.exitCode !== null || child.signalCode !== null) {
        resolve(child?.exitCode ?? null);
        return;
      }
      child.once("exit", resolve);
      child.kill(signal);
    });
  }

  /** Ends it at once and removes its files. */
  async remove(): Promise<void> {
    await this.end("SIGKILL");
    rmSync(this.directory, { recursive: true, force: true });
  }

  /** `meltemi ARGS` against it. */
  cli(...args: readonly string[]): Promise<Outcome> {
    return new Promise((resolve) => {
      execFile(
        process.execPath,
        [meltemi, ...args],
        { env: { ...process.env, MELTEMI_RUN_DIR: this.run }, maxBuffer: 64 * 1024 * 1024 },
        (error, stdout, stderr) => resolve({ code: error ? Number(error.code) : 0, stdout, stderr }),
      );
    });
  }

  /** What `meltemi ARGS -o json` prints. @throws Error with its standard error where it fails */
  async json<T>(...args: readonly string[]): Promise<T> {
    const { code, stdout, stderr } = await this.cli(...args, "-o", "json");
    if (code !== 0) throw new Error(`meltemi ${args.join(" ")} ended with ${code}: ${stderr}`);
    return JSON.parse(stdout) as T;
  }
}
