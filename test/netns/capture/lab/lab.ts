/** A mesh of two nodes with real agents and data planes, whose pods join and leave as a case wants. */
import { spawn, type ChildProcess } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { run, runIn } from "../../../../demo/lab/command.js";
import { LongRunning } from "../../../../demo/lab/long-running.js";
import { Topology, type LabNode, type LabPod } from "../../../../demo/lab/topology.js";
import { instanceShape } from "../../../../src/cli/run-directory.js";
import { callUnixHttp, callUnixJson } from "../../../../src/platform/unix-http-client.js";
import { eventually } from "../../../helpers/eventually.js";
import { traces, type Traces } from "./kernel.js";
import { commandIn, root, testkit, type Captured } from "./kit.js";
import { Records } from "./records.js";

const meltemi = join(root, "bin/meltemi");
const patienceMs = 30_000;

export interface PodPlan {
  readonly name: string;
  readonly node: "n1" | "n2";
  readonly host: number;
  /** Outside of the mesh until a case enrols it. */
  readonly outside?: true;
}

export interface PodChanges {
  readonly enrolled?: boolean;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly labels?: Readonly<Record<string, string>>;
}

export interface PodStatus {
  readonly name: string;
  readonly state: string;
  readonly reason?: string;
  readonly mode?: string;
  readonly guard?: string;
}

interface NodeStatus {
  readonly node: string;
  readonly pods: readonly PodStatus[];
  readonly control_plane: { readonly connected: boolean };
  readonly data_plane: { readonly pid: number; readonly ready: boolean };
}

export class Lab {
  readonly topology: Topology;
  readonly config: string;
  readonly state: string;
  readonly run: string;
  readonly records: Records;
  readonly #macs = new Map<string, string>();
  readonly #owned: (() => unknown)[] = [];
  #standalone: ChildProcess | undefined;
  #output = "";

  /**
   * @param prefix distinguishes its namespaces from another lab's in the same sandbox
   * @param flags further flags of `meltemi standalone`
   */
  constructor(
    prefix: string,
    readonly plans: readonly PodPlan[],
    private readonly flags: readonly string[] = [],
  ) {
    this.topology = new Topology(prefix);
    const directory = `/run/meltemi/capture-${prefix}`;
    this.config = join(directory, "config");
    this.state = join(directory, "state");
    this.run = join(directory, "run");
    this.records = new Records(this.state);
  }

  /** Makes everything, has the pods prepared, and starts the mesh; what fails is taken down again. */
  async begin(prepare: () => Promise<void>): Promise<this> {
    try {
      await this.up();
      await prepare();
      this.start();
      await this.ready();
      return this;
    } catch (error) {
      await this.down();
      throw error;
    }
  }

  /** Makes nodes, pods and manifests; does not start the mesh. */
  async up(): Promise<void> {
    mkdirSync(this.config, { recursive: true });
    await this.topology.up(["n1", "n2"]);
    for (const { name, node, host } of this.plans) await this.topology.addPod(name, node, host);
    await this.#readMacs();
    const nodes = this.topology.nodes.map(
      ({ name, netns }) =>
        `apiVersion: v1\nkind: Node\nmetadata: { name: ${name}, annotations: { meltemi.io/netns: ${netns} } }\n`,
    );
    this.apply("nodes.yaml", nodes.join("---\n"));
    this.writeNamespace({});
    for (const plan of this.plans) this.writePod(plan.name);
  }

  /** Replaces a manifest as an editor does: written beside, renamed over. */
  apply(file: string, text: string): void {
    writeFileSync(join(this.config, `.${file}.new`), text);
    renameSync(join(this.config, `.${file}.new`), join(this.config, file));
  }

  withdraw(file: string): void {
    rmSync(join(this.config, file), { force: true });
  }

  /** The pods' namespace, in the mesh. */
  writeNamespace(annotations: Readonly<Record<string, string>>): void {
    this.apply(
      "namespace.yaml",
      `apiVersion: v1
kind: Namespace
metadata: { name: shop, labels: { istio.io/dataplane-mode: ambient }, annotations: ${JSON.stringify(annotations)} }
`,
    );
  }

  writePod(name: string, changes: PodChanges = {}): void {
    const plan = this.plans.find((candidate) => candidate.name === name);
    const { netns, node, ip, ip6 } = this.pod(name);
    const enrolled = changes.enrolled ?? plan?.outside !== true;
    const labels = {
      app: name,
      ...(enrolled ? {} : { "istio.io/dataplane-mode": "none" }),
      ...changes.labels,
    };
    const annotations = { "meltemi.io/netns": netns, ...changes.annotations };
    this.apply(
      `pod-${name}.yaml`,
      `apiVersion: v1
kind: Pod
metadata: { name: ${name}, namespace: shop, labels: ${JSON.stringify(labels)}, annotations: ${JSON.stringify(annotations)} }
spec: { nodeName: ${node.name}, serviceAccountName: ${name}, containers: [{ name: c, image: x }] }
status: { podIP: ${ip}, podIPs: [{ ip: ${ip} }, { ip: "${ip6}" }], phase: Running }
`,
    );
  }

  pod(name: string): LabPod {
    return this.topology.pod(name);
  }

  node(name: string): LabNode {
    const found = this.topology.nodes.find((node) => node.name === name);
    if (found === undefined) throw new Error(`no node ${name}`);
    return found;
  }

  /** The link address of a pod, or of a node on its pods' bridge. */
  mac(name: string): string {
    const found = this.#macs.get(name);
    if (found === undefined) throw new Error(`no link address of ${name}`);
    return found;
  }

  async #readMacs(): Promise<void> {
    const pods = this.topology.pods.map(({ name, netns }) => [name, netns, "eth0"] as const);
    const bridges = this.topology.nodes.map(({ name, netns }) => [name, netns, "pods"] as const);
    for (const [name, netns, device] of [...pods, ...bridges]) {
      const [link] = JSON.parse(await runIn(netns, "ip", ["-json", "link", "show", device])) as {
        address: string;
      }[];
      if (link) this.#macs.set(name, link.address);
    }
  }

  /** A process that is to end with the lab. */
  owns(program: { stop(): Promise<void> }): void {
    this.#owned.push(() => program.stop());
  }

  /** A pod joins the mesh (or comes back with other settings), and this waits until it has. */
  async enrol(name: string, changes: Omit<PodChanges, "enrolled"> = {}): Promise<void> {
    this.writePod(name, { ...changes, enrolled: true });
    await this.podReaches(name, "enrolled");
  }

  /** A pod leaves the mesh; its settings stay the plan's. */
  async unenrol(name: string): Promise<void> {
    this.writePod(name, { enrolled: false });
    await this.podReaches(name, "out");
  }

  /** Waits until a pod that has left has its namespace back as it was; gives what there is in the end. */
  async gone(name: string, before: Traces): Promise<Traces> {
    const wanted = JSON.stringify(before);
    let now = await traces(this.pod(name));
    try {
      await eventually(
        "traces of capture to go",
        async () => JSON.stringify((now = await traces(this.pod(name)))) === wanted,
        patienceMs,
      );
    } catch {
      // The caller compares, and shows what differs.
    }
    return now;
  }

  start(): void {
    const directories = ["--config", this.config, "--state-dir", this.state, "--run-dir", this.run];
    const rest = ["--listen", "none", "--log-format", "json", "--rotation-settle-ms", "200", ...this.flags];
    this.#standalone = spawn(process.execPath, [meltemi, "standalone", ...directories, ...rest]);
    for (const stream of [this.#standalone.stdout, this.#standalone.stderr])
      stream?.on("data", (chunk: Buffer) => (this.#output += chunk.toString()));
  }

  end(signal: NodeJS.Signals): Promise<number | null> {
    return new Promise((resolve) => {
      const standalone = this.#standalone;
      if (standalone === undefined || standalone.exitCode !== null || standalone.signalCode !== null) {
        resolve(null);
        return;
      }
      standalone.once("exit", resolve);
      standalone.kill(signal);
    });
  }

  /** Mount points below this mesh's directories. */
  mounts(): string[] {
    return readFileSync("/proc/self/mounts", "utf8")
      .split("\n")
      .map((line) => line.split(" ")[1] ?? "")
      .filter((path) => path.startsWith(`${join(this.config, "..")}/`))
      .reverse();
  }

  /** Ends what runs and removes what `up` made. */
  async down(): Promise<void> {
    await this.end("SIGTERM");
    await Promise.all(this.#owned.map((end) => end()));
    await this.topology.down();
    // What a killed agent leaves for the next one.
    for (const mounted of this.mounts()) await run("umount", [mounted]);
    rmSync(join(this.config, ".."), { recursive: true, force: true });
  }

  /** Starts a command of the kit inside a pod or a node; resolves when it says that it is ready. */
  async kit(netns: string | undefined, ...args: readonly string[]): Promise<LongRunning> {
    const [program = "", ...rest] =
      netns === undefined ? [testkit, ...args] : commandIn(netns, [testkit, ...args], "root");
    const started = new LongRunning(undefined, program, rest);
    this.#owned.push(() => started.kill());
    await started.ready;
    return started;
  }

  /** A client that does not say when it is ready: it is at work from the beginning. */
  traffic(netns: string, ...args: readonly string[]): LongRunning {
    const [program = "", ...rest] = commandIn(netns, [testkit, "client", ...args], "root");
    const started = new LongRunning(undefined, program, rest);
    this.#owned.push(() => started.kill());
    return started;
  }

  /** Captures on an interface of a namespace (undefined: the sandbox's own). */
  async capture(
    netns: string | undefined,
    device: string,
    ...markers: readonly string[]
  ): Promise<{ stop(): Promise<Captured> }> {
    const wanted = markers.flatMap((marker) => ["--marker", marker]);
    const capture = await this.kit(netns, "capture", "--interface", device, ...wanted);
    return { stop: () => capture.stop() as Promise<Captured> };
  }

  /** What the agents that answer say, each asked at its own socket. */
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

  async podStatus(name: string): Promise<PodStatus | undefined> {
    return (await this.nodes()).flatMap(({ pods }) => pods).find((one) => one.name === name);
  }

  async podReaches(name: string, state: string): Promise<PodStatus> {
    let last: PodStatus | undefined;
    try {
      return await eventually(
        `${name} to be ${state}`,
        async () => {
          last = await this.podStatus(name);
          return last?.state === state && last;
        },
        patienceMs,
      );
    } catch (error) {
      throw new Error(`${name} is not ${state} but ${JSON.stringify(last)}\n${this.said()}`, {
        cause: error,
      });
    }
  }

  /** The last of what standalone and the agents said, for a failure's message. */
  said(): string {
    const logs = join(this.state, "logs");
    const files = existsSync(logs) ? readdirSync(logs) : [];
    const tails = files.map((file) => `${file}: ${readFileSync(join(logs, file), "utf8").slice(-1_500)}`);
    return [this.#output.slice(-1_000), ...tails].join("\n");
  }

  /** Whether both nodes serve all their pods, connected to the control plane. */
  async isReady(): Promise<boolean> {
    const wanted = this.plans.filter(({ outside }) => outside !== true).map(({ name }) => name);
    const nodes = await this.nodes();
    const states = new Map(nodes.flatMap(({ pods }) => pods.map(({ name, state }) => [name, state])));
    return (
      nodes.length === 2 &&
      nodes.every(({ data_plane, control_plane }) => data_plane.ready && control_plane.connected) &&
      wanted.every((name) => states.get(name) === "enrolled")
    );
  }

  async ready(): Promise<void> {
    try {
      await eventually("the mesh to be ready", () => this.isReady(), patienceMs);
    } catch (error) {
      throw new Error(`the mesh is not ready: ${JSON.stringify(await this.nodes())}\n${this.said()}`, {
        cause: error,
      });
    }
  }

  /** A line of a node's metrics, 0 where it is not there. @param series name and labels, as Prometheus writes them */
  async metric(node: string, series: string): Promise<number> {
    const socketPath = join(this.run, "nodes", node, "node-admin.sock");
    const { body } = await callUnixHttp({ socketPath, path: "/metrics" });
    const line = body
      .toString()
      .split("\n")
      .find((one) => one.startsWith(`${series} `));
    return Number(line?.slice(series.length + 1) ?? 0);
  }

  /** The mesh's processes: `control-plane`, `node-NODE`, `proxy-NODE`. */
  processes(): Map<string, number> {
    const text = readFileSync(join(this.run, "instance.json"), "utf8");
    const found = new Map(instanceShape.parse(JSON.parse(text)).children.map(({ name, pid }) => [name, pid]));
    for (const { name } of this.topology.nodes) {
      const file = join(this.run, "nodes", name, "proxy.json");
      if (!existsSync(file)) continue;
      const { pid = 0 } = JSON.parse(readFileSync(file, "utf8")) as { pid?: number };
      if (pid > 0) found.set(`proxy-${name}`, pid);
    }
    return found;
  }

  signal(process: string, signal: NodeJS.Signals): void {
    const pid = this.processes().get(process);
    if (pid === undefined) throw new Error(`no process ${process}`);
    global.process.kill(pid, signal);
  }
}
