/** A node of our own: the agent and its data plane as processes, with CNI directories and a directory of YAML. */
import { mkdirSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { execa, execaSync } from "execa";
import { callUnixHttp, callUnixJson } from "../../../src/platform/unix-http-client.js";
import { eventually } from "../../helpers/eventually.js";
import { agentCommand, agentEnvironment } from "../node/agent-process.js";

interface PodRow {
  readonly namespace: string;
  readonly name: string;
  readonly state: string;
  readonly reason?: string;
  readonly netns: string;
  readonly mode: string;
  readonly guard: string;
}

export interface NodePodYaml {
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
  readonly labels?: Readonly<Record<string, string>>;
}

const spawnAgent = (program: string, args: readonly string[]) =>
  execa(program, args, { env: agentEnvironment, extendEnv: false, reject: false, all: true, buffer: false });

export class CniNode {
  readonly binDir: string;
  readonly confDir: string;
  readonly socket: string;
  readonly runDir: string;
  readonly list: string;
  readonly #config: string;
  #agent: ReturnType<typeof spawnAgent> | undefined;
  #log = "";

  constructor(readonly directory: string) {
    rmSync(directory, { recursive: true, force: true });
    this.binDir = join(directory, "bin");
    this.confDir = join(directory, "net.d");
    this.socket = join(directory, "cni.sock");
    this.runDir = join(directory, "run");
    this.list = join(directory, "agent/state/cni-list.json");
    this.#config = join(directory, "config");
    for (const path of [this.binDir, this.confDir, this.#config]) mkdirSync(path, { recursive: true });
  }

  /** A file of the directory that the agent reads; all pods are this node's. */
  declare(file: string, namespaces: Readonly<Record<string, string>>, pods: readonly NodePodYaml[]): void {
    const documents = [
      ...Object.entries(namespaces).map(([name, mode]) => ({
        apiVersion: "v1",
        kind: "Namespace",
        metadata: { name, labels: { "istio.io/dataplane-mode": mode } },
      })),
      ...pods.map(({ namespace, name, uid, labels = {} }) => ({
        apiVersion: "v1",
        kind: "Pod",
        metadata: { name, namespace, uid, labels },
        spec: { nodeName: "n1", containers: [{ name: "app", image: "x" }] },
      })),
    ];
    writeFileSync(join(this.#config, file), documents.map((one) => JSON.stringify(one)).join("\n---\n"));
  }

  get pid(): number {
    return this.#agent?.pid ?? 0;
  }

  /** What the agent has logged since the first start. */
  get log(): string {
    return this.#log;
  }

  async start(...flagsBesides: readonly string[]): Promise<void> {
    const [program, args] = agentCommand(join(this.directory, "agent"), this.#config, this.runDir);
    const flags = { "cni-socket": this.socket, "cni-bin-dir": this.binDir, "cni-conf-dir": this.confDir };
    const more = Object.entries(flags).flatMap(([name, value]) => [`--${name}`, value]);
    const agent = spawnAgent(program, [...args, ...more, ...flagsBesides]);
    agent.all.on("data", (chunk: Buffer) => (this.#log += chunk.toString()));
    this.#agent = agent;
    await eventually("the agent's data plane", () => this.dataPlanePid, 30_000).catch((error: unknown) => {
      throw new Error(`${String(error)}\n${this.#log}`);
    });
  }

  /** Ends the agent; resolves with its exit code. */
  async end(signal: "SIGTERM" | "SIGKILL"): Promise<number | undefined> {
    this.#agent?.kill(signal);
    return (await this.#agent)?.exitCode;
  }

  /** Ends whatever still runs, the data plane too. */
  async destroy(): Promise<void> {
    await this.end("SIGKILL");
    const path = join(this.runDir, "proxy.json");
    try {
      process.kill((JSON.parse(readFileSync(path, "utf8")) as { pid: number }).pid, "SIGKILL");
    } catch {
      // It has ended, or there was none.
    }
    // The agent that was killed has left its BPF file system mounted.
    execaSync("umount", [join(this.runDir, "bpf")], { reject: false });
    rmSync(this.directory, { recursive: true, force: true });
  }

  get dataPlanePid(): Promise<number | undefined> {
    return this.#status().then(
      (status) => status.data_plane.pid,
      () => undefined,
    );
  }

  async pod(key: string): Promise<PodRow | undefined> {
    return (await this.#status()).pods.find(({ namespace, name }) => `${namespace}/${name}` === key);
  }

  async metrics(): Promise<string> {
    const { body } = await callUnixHttp({
      socketPath: join(this.runDir, "node-admin.sock"),
      path: "/metrics",
    });
    return body.toString("utf8");
  }

  async #status() {
    const status = await callUnixJson({ socketPath: join(this.runDir, "node-admin.sock"), path: "/status" });
    return status as { pods: PodRow[]; data_plane: { pid?: number } };
  }
}

/** What a process has open, by what it leads to, with counts. */
export function openFiles(pid: number): ReadonlyMap<string, number> {
  const counts = new Map<string, number>();
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    let target: string;
    try {
      target = readlinkSync(`/proc/${pid}/fd/${fd}`);
    } catch {
      continue;
    }
    const kind = target.replace(/:\[\d+\]$/, "").replace(/^anon_inode:/, "");
    counts.set(kind, (counts.get(kind) ?? 0) + 1);
  }
  return counts;
}

/** Names of the links in this namespace. */
export function links(): readonly string[] {
  const { stdout } = execaSync("ip", ["-o", "link"]);
  return stdout.split("\n").map((line) => /^\d+: ([^:@]+)/.exec(line)?.[1] ?? "");
}

/**
 * A link in a pod's namespace whose other end is here: it goes when the namespace goes, and stays while anything
 * (a descriptor, a socket, a process) keeps the namespace.
 */
export function canary(name: string, netns: string): void {
  execaSync("ip", ["link", "add", name, "type", "veth", "peer", "name", "canary", "netns", netns]);
}

/** Tries to send a word from a pod to `ADDRESS/PORT`, in the clear as far as the pod knows. */
export async function sayFrom(netns: string, target: string, word: string): Promise<void> {
  const script = `exec 3<>/dev/tcp/${target} && printf %s ${word} >&3 && sleep 0.5`;
  await execa("nsenter", [`--net=${netns}`, "timeout", "2", "bash", "-c", script], { reject: false });
}
