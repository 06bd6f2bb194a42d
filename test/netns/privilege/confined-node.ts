/** One node as its DaemonSet pod runs it: agent and data plane as two containers, each confined to its own list. */
import { spawn, type ChildProcess } from "node:child_process";
import { closeSync, mkdirSync, openSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { netnsPath, run } from "../../../demo/lab/command.js";
import type { LabNode } from "../../../demo/lab/topology.js";
import type { Mode } from "../../../bench/capture/modes.js";
import { callUnixJson } from "../../../src/platform/unix-http-client.js";
import type { ControlPlaneProcess } from "../../helpers/control-plane-process.js";
import { eventually } from "../../helpers/eventually.js";

export const root = fileURLToPath(new URL("../../../", import.meta.url));
export const confine = join(root, "target/release/meltemi-confine");
export const daemonset = join(root, "daemonset");

export type ContainerName = "agent" | "data-plane";

interface ContainerFile {
  readonly securityContext: { readonly capabilities: { readonly add: readonly string[] } };
  readonly capabilityReasons: Readonly<Record<string, string>>;
}

const readContainer = (name: ContainerName): ContainerFile =>
  JSON.parse(readFileSync(join(daemonset, `${name}.json`), "utf8")) as ContainerFile;

/** The capabilities that a container is given, without `CAP_`. */
export const listedCapabilities = (name: ContainerName): readonly string[] =>
  readContainer(name).securityContext.capabilities.add;

/** Writes a container's description that lacks one capability, below `directory`; gives the file. */
export function containerWithout(directory: string, name: ContainerName, capability: string): string {
  const place = join(directory, `${name}-without-${capability}`);
  mkdirSync(place, { recursive: true });
  symlinkSync(join(daemonset, "seccomp"), join(place, "seccomp"));
  const container = readContainer(name);
  const { [capability]: _, ...capabilityReasons } = container.capabilityReasons;
  const { securityContext } = container;
  const capabilities = {
    ...securityContext.capabilities,
    add: securityContext.capabilities.add.filter((one) => one !== capability),
  };
  const file = join(place, `${name}.json`);
  const without = { ...container, securityContext: { ...securityContext, capabilities }, capabilityReasons };
  writeFileSync(file, JSON.stringify(without));
  return file;
}

export interface PodState {
  readonly name: string;
  readonly state: string;
  readonly reason?: string;
  readonly mode: string;
}

interface Status {
  readonly pods: readonly PodState[];
  readonly control_plane: { readonly connected: boolean };
}

export class ConfinedNode {
  readonly #containers = new Map<ContainerName, ChildProcess>();
  readonly #run: string;
  readonly #state: string;

  /** @param mode how pods are captured: the agent's `--redirect-mode` */
  constructor(
    private readonly node: LabNode,
    private readonly controlPlane: ControlPlaneProcess,
    directory: string,
    private readonly mode: Mode,
  ) {
    this.#run = join(directory, node.name, "run");
    this.#state = join(directory, node.name, "state");
    for (const path of [this.#run, this.#state, join(this.#run, "bpf")])
      mkdirSync(path, { recursive: true, mode: 0o700 });
  }

  /** What a node's host has mounted before its pods come: a container's own mount would be no other's. */
  async mountBpffs(): Promise<void> {
    await run("mount", ["-t", "bpf", "bpf", join(this.#run, "bpf")]);
  }

  async unmountBpffs(): Promise<void> {
    await run("umount", [join(this.#run, "bpf")]);
  }

  pid(name: ContainerName): number {
    return this.#containers.get(name)?.pid ?? 0;
  }

  log(name: ContainerName): string {
    return readFileSync(this.#logFile(name), "utf8");
  }

  #logFile(name: ContainerName): string {
    return join(this.#state, `${name}.log`);
  }

  /** @param container its description; another than the node's own for trying what breaks */
  start(name: ContainerName, container = join(daemonset, `${name}.json`)): void {
    // Each start with a log of its own.
    const log = openSync(this.#logFile(name), "w");
    const writable = name === "agent" ? [this.#run, this.#state, "/proc/sys/net"] : [this.#run];
    const command = [
      ...[`--net=${netnsPath(this.node.netns)}`, "--", confine, "--container", container],
      ...writable.flatMap((path) => ["--writable", path]),
      "--",
      ...(name === "agent" ? this.#agentCommand() : this.#dataPlaneCommand()),
    ];
    // As a container runtime does, the harness starts it with all privileges, and nothing is inherited but PATH.
    const { PATH = "" } = process.env;
    const child = spawn("nsenter", command, {
      stdio: ["ignore", log, log],
      env: { PATH, MALLOC_ARENA_MAX: "2" },
    });
    closeSync(log);
    this.#containers.set(name, child);
  }

  #agentCommand(): string[] {
    const { config, state, run: controlPlaneRun } = this.controlPlane;
    return [
      ...[process.execPath, join(root, "bin/meltemi"), "node", "--node", this.node.name],
      ...["--config", config, "--run-dir", this.#run, "--state-dir", this.#state],
      ...["--control-plane", `unix:${join(controlPlaneRun, "control-xds.sock")}`],
      ...["--control-plane-root", join(controlPlaneRun, "root-cert.pem")],
      ...["--token-file", join(state, "tokens", this.node.name)],
      ...["--metrics-address", "none", "--ready-address", "none", "--log-format", "json"],
      ...["--redirect-mode", this.mode, "--data-plane-registers"],
    ];
  }

  #dataPlaneCommand(): string[] {
    return [
      ...[join(root, "target/release/meltemi-proxy"), "ztunnel", "--node", this.node.name],
      ...["--run-dir", this.#run, "--log-format", "json"],
    ];
  }

  /** Resolves once the container's process has ended. */
  async end(name: ContainerName, signal: NodeJS.Signals): Promise<void> {
    const child = this.#containers.get(name);
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.kill(signal);
    await ended;
  }

  async stop(): Promise<void> {
    await this.end("agent", "SIGTERM");
    await this.end("data-plane", "SIGTERM");
  }

  async status(): Promise<Status | undefined> {
    const socketPath = join(this.#run, "node-admin.sock");
    return (await callUnixJson({ socketPath, path: "/status" }).catch(() => undefined)) as Status | undefined;
  }

  /** Waits until the node says that it cannot serve the pod, or that it cannot run at all; gives its words. */
  refusal(pod: string): Promise<string> {
    return eventually(
      `a reason why ${pod} is not served`,
      async () => {
        const agent = this.#containers.get("agent");
        if (agent?.exitCode !== null && agent?.exitCode !== undefined) return this.log("agent");
        const found = (await this.status())?.pods.find(({ name }) => name === pod);
        return found?.state === "failed" && (found.reason ?? "no reason");
      },
      30_000,
    );
  }

  /** Waits until the pod is in one of the states, and gives what the agent says of it. */
  async podReaches(pod: string, ...states: readonly string[]): Promise<PodState> {
    let last: PodState | undefined;
    try {
      return await eventually(
        `${pod} to be ${states.join(" or ")}`,
        async () => {
          last = (await this.status())?.pods.find(({ name }) => name === pod);
          return last !== undefined && states.includes(last.state) && last;
        },
        30_000,
      );
    } catch (error) {
      const logs = (["agent", "data-plane"] as const).map((name) => this.log(name).slice(-1_500));
      throw new Error([String(error), JSON.stringify(last), ...logs].join("\n"), { cause: error });
    }
  }
}
