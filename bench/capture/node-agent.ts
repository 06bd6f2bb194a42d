import { spawn, type ChildProcess } from "node:child_process";
import { closeSync, mkdirSync, openSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { callUnixJson } from "../../src/platform/unix-http-client.js";
import { eventually, netnsPath } from "../../demo/lab/command.js";
import type { LabNode } from "../../demo/lab/topology.js";
import { rename } from "node:fs/promises";

/** What `/status` says, as far as it is looked at here. */
export interface AgentStatus {
  readonly pods: readonly {
    readonly name: string;
    readonly state: string;
    readonly reason?: string;
    readonly mode: string;
    readonly guard?: string;
  }[];
  readonly data_plane: { readonly pid: number; readonly ready: boolean };
}

export interface NodeAgentOptions {
  readonly meltemi: string;
  readonly proxy: string;
  readonly node: LabNode;
  /** Of this instance alone. */
  readonly directory: string;
  /** More of the agent's flags, for the mode of capture. */
  readonly flags?: readonly string[];
  /** More of its environment, for looking into it. */
  readonly environment?: Readonly<Record<string, string>>;
  /** Where it learns of the mesh; without one, pods are enrolled all the same. */
  readonly controlPlane?: AgentControlPlane;
}

/** A control plane on this machine, and the directory that both read. */
export interface AgentControlPlane {
  readonly config: string;
  readonly address: string;
  readonly root: string;
  /** The node's token. */
  token(node: string): string;
}

const endMs = 60_000;

/** One node's agent with its data plane. */
export class NodeAgent {
  readonly config: string;
  readonly #run: string;
  readonly #state: string;
  readonly #options: NodeAgentOptions;
  #child: ChildProcess | undefined;

  constructor(options: NodeAgentOptions) {
    this.#options = options;
    const { directory, controlPlane } = options;
    this.config = controlPlane?.config ?? join(directory, "config");
    this.#run = join(directory, "run");
    this.#state = join(directory, "state");
    for (const path of [this.config, this.#run, this.#state])
      mkdirSync(path, { recursive: true, mode: 0o700 });
    if (controlPlane !== undefined) return;
    for (const name of ["root.pem", "token"]) writeFileSync(join(directory, name), "none");
    writeFileSync(
      join(this.config, "namespace.yaml"),
      "apiVersion: v1\nkind: Namespace\nmetadata: { name: shop, labels: { istio.io/dataplane-mode: ambient } }\n",
    );
  }

  get pid(): number {
    return this.#child?.pid ?? 0;
  }

  /** Resolves once the data plane is ready to be told of pods. */
  async start(): Promise<void> {
    const { meltemi, proxy, node, directory, flags = [], environment, controlPlane } = this.#options;
    const log = openSync(join(this.#state, "agent.log"), "a");
    const args = [
      ...[`--net=${netnsPath(node.netns)}`, "--", process.execPath, meltemi, "node", "--node", node.name],
      ...["--config", this.config, "--run-dir", this.#run, "--state-dir", this.#state],
      ...["--control-plane", controlPlane?.address ?? "unix:/run/none.sock"],
      ...["--control-plane-root", controlPlane?.root ?? join(directory, "root.pem")],
      ...["--token-file", controlPlane?.token(node.name) ?? join(directory, "token")],
      ...["--metrics-address", "none", "--ready-address", "none"],
      ...["--proxy", proxy, "--log-format", "json", ...flags],
    ];
    const { PATH = "" } = process.env;
    this.#child = spawn("nsenter", args, {
      stdio: ["ignore", log, log],
      // As standalone sets it.
      env: { PATH, MALLOC_ARENA_MAX: "2", ...environment },
    });
    closeSync(log);
    await eventually("the agent to answer", async () =>
      (await this.status())?.data_plane.pid === undefined ? undefined : true,
    );
  }

  /** Replaces a file of its configuration in one step. */
  async write(name: string, text: string): Promise<void> {
    const file = join(this.config, name);
    writeFileSync(`${file}.new`, text);
    await rename(`${file}.new`, file);
  }

  async status(): Promise<AgentStatus | undefined> {
    const socketPath = join(this.#run, "node-admin.sock");
    return (await callUnixJson({ socketPath, path: "/status" }).catch(() => undefined)) as
      AgentStatus | undefined;
  }

  /** Waits until exactly `count` pods are to be in the mesh, all enrolled. Gives when that was seen. */
  enrolled(count: number, deadlineMs = 120_000): Promise<number> {
    return this.#pods(
      `${count} pods to be enrolled`,
      deadlineMs,
      (pods) => pods.length === count && pods.every(({ state }) => state === "enrolled"),
    );
  }

  /** Waits until no pod is in the mesh, nor on its way out. */
  emptied(deadlineMs = 120_000): Promise<number> {
    return this.#pods("the pods to be gone", deadlineMs, (pods) => pods.length === 0);
  }

  #pods(what: string, deadlineMs: number, is: (pods: AgentStatus["pods"]) => boolean): Promise<number> {
    return eventually(
      what,
      async () => {
        const pods = (await this.status())?.pods.filter(
          ({ state, reason }) => state !== "out" || reason === "leaving the mesh",
        );
        return pods !== undefined && is(pods) ? performance.now() : undefined;
      },
      // Each look costs the agent something: with hundreds of pods a page of its own.
      { deadlineMs, everyMs: 50 },
    );
  }

  log(): string {
    return readFileSync(join(this.#state, "agent.log"), "utf8");
  }

  /** Ends agent and data plane as a power cut does. */
  async kill(): Promise<void> {
    const child = this.#child;
    const dataPlane = (await this.status())?.data_plane.pid;
    const ended = child && new Promise((resolve) => child.once("close", resolve));
    child?.kill("SIGKILL");
    if (dataPlane !== undefined) process.kill(dataPlane, "SIGKILL");
    await ended;
  }

  /** Ends it in order: data plane drained, capture removed. */
  async stop(): Promise<number | null> {
    const child = this.#child;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return null;
    const ended = new Promise<number | null>((resolve) => child.once("exit", resolve));
    const overdue = setTimeout(() => child.kill("SIGKILL"), endMs);
    child.kill("SIGTERM");
    const code = await ended;
    clearTimeout(overdue);
    return code;
  }
}

/** Descriptors that a process has open. */
export const descriptors = (pid: number): number => readdirSync(`/proc/${pid}/fd`).length;

/** Fields 14 to 17 of /proc/PID/stat: CPU of the process and of the programs it has run, in seconds. */
export function cpuWithChildren(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return [11, 12, 13, 14].reduce((sum, index) => sum + Number(fields[index]), 0) / 100;
}

export const residentKb = (pid: number): number =>
  Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);
