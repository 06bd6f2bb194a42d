/** `meltemi standalone` as a person runs it, on two nodes made of namespaces, with a server and a client. */
import { spawn, type ChildProcess } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { execa } from "execa";
import { startIn } from "../../../demo/lab/command.js";
import { Topology } from "../../../demo/lab/topology.js";
import { instanceShape } from "../../../src/cli/run-directory.js";
import { callUnixJson } from "../../../src/platform/unix-http-client.js";
import { eventually } from "../../helpers/eventually.js";

export const root = fileURLToPath(new URL("../../../", import.meta.url));
export const meltemi = join(root, "bin/meltemi");
const testkit = join(root, "target/release/meltemi-testkit");
const patienceMs = 30_000;

export interface NodeStatus {
  readonly node: string;
  readonly pods: readonly { readonly name: string; readonly state: string; readonly reason?: string }[];
  readonly control_plane: { readonly connected: boolean };
  readonly data_plane: { readonly pid: number; readonly ready: boolean };
}

/** The answer of `testkit client http`, as far as it is looked at here. */
export interface Requests {
  readonly ok: number;
  readonly requests: number;
}

export const cartUrl = "http://10.96.1.1:80/";

export class Mesh {
  readonly topology: Topology;
  readonly config: string;
  readonly state: string;
  readonly run: string;
  readonly #servers: ChildProcess[] = [];
  #standalone: ChildProcess | undefined;
  #output = "";

  /** @param prefix distinguishes its namespaces from another mesh's in the same sandbox */
  constructor(
    prefix: string,
    readonly directory: string,
  ) {
    this.topology = new Topology(prefix);
    [this.config, this.state, this.run] = ["config", "state", "run"].map((name) => join(directory, name)) as [
      string,
      string,
      string,
    ];
  }

  /** Nodes n1 (pod cart, which serves HTTP) and n2 (pod front), and their manifests. Does not start the mesh. */
  async up(): Promise<void> {
    mkdirSync(this.config, { recursive: true });
    await this.topology.up(["n1", "n2"]);
    await this.topology.addPod("cart", "n1", 10);
    await this.topology.addPod("front", "n2", 10);
    this.serve("cart");
    const nodes = this.topology.nodes.map(
      ({ name, netns }) =>
        `apiVersion: v1\nkind: Node\nmetadata: { name: ${name}, annotations: { meltemi.io/netns: ${netns} } }\n`,
    );
    const rest = `
apiVersion: v1
kind: Namespace
metadata: { name: shop, labels: { istio.io/dataplane-mode: ambient } }
---
apiVersion: v1
kind: Service
metadata: { name: cart, namespace: shop }
spec: { clusterIP: 10.96.1.1, selector: { app: cart }, ports: [{ port: 80, targetPort: 8080 }] }
`;
    writeFileSync(join(this.config, "mesh.yaml"), [...nodes, rest].join("---\n"));
    this.writePod("cart");
    this.writePod("front");
  }

  serve(pod: string): void {
    const args = ["serve", "http", "--listen", "0.0.0.0:8080", "--name", pod];
    this.#servers.push(startIn(this.topology.pod(pod).netns, testkit, args));
  }

  writePod(name: string, changes: { serviceAccount?: string; netns?: string; ip?: string } = {}): void {
    writeFileSync(join(this.config, `${name}.yaml`), this.manifest(name, changes));
  }

  manifest(name: string, changes: { serviceAccount?: string; netns?: string; ip?: string } = {}): string {
    const { netns, node, ip } = this.topology.pod(name);
    return `
apiVersion: v1
kind: Pod
metadata: { name: ${name}, namespace: shop, labels: { app: ${name} }, annotations: { meltemi.io/netns: ${changes.netns ?? netns} } }
spec: { nodeName: ${node.name}, serviceAccountName: ${changes.serviceAccount ?? name}, containers: [{ name: c, image: x }] }
status: { podIP: ${changes.ip ?? ip}, phase: Running }
`;
  }

  start(): void {
    const directories = ["--config", this.config, "--state-dir", this.state, "--run-dir", this.run];
    const rest = ["--listen", "none", "--log-format", "json", "--rotation-settle-ms", "200"];
    this.#standalone = spawn(process.execPath, [meltemi, "standalone", ...directories, ...rest]);
    for (const stream of [this.#standalone.stdout, this.#standalone.stderr])
      stream?.on("data", (chunk: Buffer) => (this.#output += chunk.toString()));
  }

  end(signal: NodeJS.Signals): Promise<number | null> {
    return new Promise((resolve) => {
      this.#standalone?.once("exit", resolve);
      this.#standalone?.kill(signal);
    });
  }

  /** Ends what runs and removes what `up` made. */
  async down(): Promise<void> {
    const standalone = this.#standalone;
    if (standalone?.exitCode === null && standalone.signalCode === null) await this.end("SIGTERM");
    for (const server of this.#servers) server.kill("SIGKILL");
    await this.topology.down();
    rmSync(this.directory, { recursive: true, force: true });
  }

  async cli<T>(...args: readonly string[]): Promise<T> {
    const { stdout } = await execa(process.execPath, [meltemi, ...args, "--run-dir", this.run, "-o", "json"]);
    return JSON.parse(stdout) as T;
  }

  /** What the agents that answer say, each asked at its own socket: the control plane may be away. */
  async nodes(): Promise<readonly NodeStatus[]> {
    const nodes = join(this.run, "nodes");
    const names = existsSync(nodes) ? readdirSync(nodes) : [];
    const asked = names.map(async (name) => {
      const socketPath = join(nodes, name, "node-admin.sock");
      return (await callUnixJson({ socketPath, path: "/status" })) as NodeStatus;
    });
    const answers = await Promise.allSettled(asked);
    return answers.flatMap((answer) => (answer.status === "fulfilled" ? [answer.value] : []));
  }

  /** Waits until exactly these nodes are ready and connected, with their pods enrolled; gives their data planes' numbers. */
  ready(...names: readonly string[]): Promise<ReadonlyMap<string, number>> {
    return eventually(
      `nodes ${names.join(", ")}\n${this.#output.slice(-2_000)}`,
      async () => {
        const nodes = await this.nodes();
        const good = nodes.filter(
          ({ pods, control_plane, data_plane }) =>
            data_plane.ready &&
            control_plane.connected &&
            pods.length > 0 &&
            pods.every((one) => one.state === "enrolled"),
        );
        const found = new Map(good.map(({ node, data_plane }) => [node, data_plane.pid]));
        return nodes.length === names.length && names.every((name) => found.has(name)) && found;
      },
      patienceMs,
    );
  }

  /** What the agents say of a pod; undefined while none knows it. */
  async pod(name: string): Promise<NodeStatus["pods"][number] | undefined> {
    return (await this.nodes()).flatMap(({ pods }) => pods).find((one) => one.name === name);
  }

  podReaches(name: string, state: string): Promise<NodeStatus["pods"][number]> {
    return eventually(
      `${name} to be ${state}`,
      async () => {
        const found = await this.pod(name);
        return found?.state === state && found;
      },
      patienceMs,
    );
  }

  async request(from: string, url = cartUrl, ...more: readonly string[]): Promise<Requests> {
    const args = ["client", "http", "--url", url, "--requests", "1", ...more];
    const netns = `--net=/run/netns/${this.topology.pod(from).netns}`;
    const { stdout } = await execa("nsenter", [netns, "--", testkit, ...args], { reject: false });
    return JSON.parse(stdout.trim().split("\n").at(-1) ?? "{}") as Requests;
  }

  works(from = "front"): Promise<boolean> {
    return eventually("a request over the mesh", async () => (await this.request(from)).ok === 1, patienceMs);
  }

  /** Requests without a pause until `stop`, each over a connection of its own. */
  traffic(from: string): { stop(): Promise<Requests> } {
    const args = ["client", "http", "--url", cartUrl, "--until-signal", "--interval-ms", "5"];
    const client = startIn(this.topology.pod(from).netns, testkit, [...args, "--keepalive", "false"]);
    let output = "";
    client.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
    this.#servers.push(client);
    return {
      stop: async () => {
        const closed = new Promise((resolve) => client.once("close", resolve));
        client.kill("SIGTERM");
        await closed;
        return JSON.parse(output.trim().split("\n").at(-1) ?? "{}") as Requests;
      },
    };
  }

  children(): Map<string, number> {
    const text = readFileSync(join(this.run, "instance.json"), "utf8");
    return new Map(instanceShape.parse(JSON.parse(text)).children.map(({ name, pid }) => [name, pid]));
  }
}

/** Empty for a process that has ended, also where nobody has taken note yet. */
export function commandOf(pid: number | string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
  } catch {
    return "";
  }
}
