/** A cluster as a whole: made, found again, changed and taken down. */
import {
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { execa } from "execa";
import { eventually } from "../../demo/lab/command.js";
import { MeltemiError, messageOf } from "../../src/domain/error.js";
import { makeCgroup, removeCgroup } from "./cgroups.js";
import { controlPlane, writeKubeconfig, type Component } from "./components.js";
import { archiveName, writeImage, type ImageDescription } from "./image.js";
import { apiServer, maxNodes, type Layout, type NodeLayout } from "./layout.js";
import { Machine } from "./machine.js";
import { dnsImage, manifests } from "./manifests.js";
import { ClusterNode, keepNodeFiles, nodeConfiguration, pauseImage } from "./node.js";
import { kubeconfig, Pki } from "./pki.js";
import { kubernetesPrograms } from "./programs.js";

export interface ClusterOptions {
  /** 0: the API server alone. */
  readonly nodes: number;
  /** Where `kube`, `coredns` and `pause` are. */
  readonly programs: string;
  readonly apiServerFlags: readonly string[];
}

type Say = (text: string) => void;

/** The end of a file, for an error. */
export function tail(path: string, lines = 15): string {
  if (!existsSync(path)) return `(${path} does not exist)`;
  return readFileSync(path, "utf8").trimEnd().split("\n").slice(-lines).join("\n");
}

export class Cluster {
  private constructor(
    readonly layout: Layout,
    readonly machine: Machine,
    private readonly nodeCount: number,
  ) {}

  /** The cluster of this directory. @throws MeltemiError `not_found` when it does not run */
  static find(layout: Layout): Cluster {
    const machine = Machine.find(layout);
    if (machine === undefined || !existsSync(layout.record))
      throw new MeltemiError("not_found", `no cluster runs in ${layout.directory}`, {
        hint: "npm run cluster -- up",
      });
    const { nodes } = JSON.parse(readFileSync(layout.record, "utf8")) as { nodes: number };
    return new Cluster(layout, machine, nodes);
  }

  /**
   * Makes a cluster and waits until it serves. What an earlier one has left in the directory is removed first.
   * @throws MeltemiError `conflict` when one runs, naming the component and the end of its log when something fails
   */
  static async up(layout: Layout, options: ClusterOptions, say: Say): Promise<Cluster> {
    if (options.nodes > maxNodes)
      throw new MeltemiError("bad_input", `--nodes ${options.nodes}: at most ${maxNodes} are possible`);
    if (Machine.find(layout) !== undefined)
      throw new MeltemiError("conflict", `a cluster runs in ${layout.directory} already`, {
        hint: "npm run cluster -- down",
      });
    await Cluster.down(layout);
    mkdirSync(layout.logs, { recursive: true, mode: 0o700 });
    mkdirSync(layout.images, { recursive: true });
    writeFileSync(layout.record, JSON.stringify({ nodes: options.nodes }));
    installPrograms(layout, options.programs);
    makeCgroup(layout.cgroup);
    const machine = await Machine.start(layout);
    const cluster = new Cluster(layout, machine, options.nodes);
    const pki = new Pki(layout.pki, Date.now());
    await cluster.#startControlPlane(controlPlane(layout, pki, options.apiServerFlags), say);
    if (options.nodes > 0) await cluster.#startNodes(pki, options.programs, say);
    return cluster;
  }

  /** Leaves nothing: of one that runs, of one that was killed half-way, and of none. */
  static async down(layout: Layout): Promise<void> {
    await Machine.end(layout);
    await removeCgroup(layout.cgroup);
    // A program that a killed `up` had started may write its last file now.
    rmSync(layout.directory, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 });
  }

  get kubeconfig(): string {
    return this.layout.kubeconfig("admin");
  }

  get nodes(): readonly ClusterNode[] {
    const all = this.#nodeLayouts;
    return all.map((one) => new ClusterNode(this.machine, this.layout, one, all));
  }

  /** @throws MeltemiError `not_found` */
  node(name: string): ClusterNode {
    const found = this.nodes.find((one) => one.name === name);
    if (found === undefined)
      throw new MeltemiError(
        "not_found",
        `there is no node ${name}; there are: ${this.nodes.map((one) => one.name).join(", ")}`,
      );
    return found;
  }

  /** Runs kubectl as the cluster's administrator, and gives its output. */
  async kubectl(args: readonly string[], input?: string): Promise<string> {
    return this.machine.run(
      [this.layout.program("kubectl"), `--kubeconfig=${this.kubeconfig}`, ...args],
      input,
    );
  }

  /** Runs kubectl, or any program, with this process's terminal, in the machine's network; gives the exit code. */
  async interactive(command: readonly string[]): Promise<number> {
    const result = await execa("nsenter", [`--target=${this.machine.pid}`, "--net", "--", ...command], {
      stdio: "inherit",
      reject: false,
      env: {
        KUBECONFIG: this.kubeconfig,
        PATH: `${this.layout.programs}:${process.env.PATH ?? "/usr/sbin:/usr/bin"}`,
      },
    });
    return result.exitCode ?? 1;
  }

  /** Gives every node an image; nodes that are down get it when they start. */
  async loadImage(image: ImageDescription | { readonly archive: string }): Promise<void> {
    if ("archive" in image) {
      const name = `${statSync(image.archive).size}-${image.archive.replaceAll("/", "_")}`;
      cpSync(image.archive, join(this.layout.images, name));
    } else {
      await this.#keepImage(image);
    }
    await Promise.all(this.nodes.filter((one) => one.pid !== undefined).map((one) => one.importImages()));
  }

  /** Starts a node that is down, and waits until it is Ready. */
  async startNode(name: string): Promise<void> {
    const node = this.node(name);
    if (node.pid !== undefined) throw new MeltemiError("conflict", `node ${name} runs already`);
    const before = await this.#heartbeat(name);
    await node.kill();
    await node.start();
    await this.#ready(node, before);
  }

  async rebootNode(name: string, loseState: boolean): Promise<void> {
    const node = this.node(name);
    const before = await this.#heartbeat(name);
    await node.kill();
    if (loseState) node.loseState();
    await node.start();
    await this.#ready(node, before);
  }

  /** Components of the control plane and of the nodes, and how often each has ended. */
  restarts(): ReadonlyMap<string, number> {
    const logs = [
      ...["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "load-balancer"].map(
        (name) => [name, this.layout.log(name)] as const,
      ),
      ...this.nodes.flatMap((node) =>
        ["containerd", "kubelet", "kube-proxy"].map(
          (name) => [`${node.name} ${name}`, node.log(name)] as const,
        ),
      ),
    ];
    return new Map(logs.map(([name, log]) => [name, ended(log)]));
  }

  get #nodeLayouts(): readonly NodeLayout[] {
    return Array.from({ length: this.nodeCount }, (_, index) => this.layout.node(index + 1));
  }

  async #startControlPlane(components: readonly Component[], say: Say): Promise<void> {
    const [etcd, api, ...others] = components;
    for (const one of [etcd, api]) if (one !== undefined) await this.machine.supervise(one.name, one.command);
    await this.#serving("kube-apiserver", () => this.kubectl(["get", "--raw", "/readyz"]), say);
    await this.kubectl(["apply", "-f", "-"], JSON.stringify(list(manifests)));
    for (const one of others) await this.machine.supervise(one.name, one.command);
    // The namespace's account comes from the controller manager; the first pod needs it.
    await this.#serving(
      "kube-controller-manager",
      () => this.kubectl(["get", "serviceaccount", "default", "-n", "default"]),
      say,
    );
  }

  async #startNodes(pki: Pki, programs: string, say: Say): Promise<void> {
    const oneProgram = (name: string, program: string): ImageDescription => ({
      name,
      entrypoint: [`/${program}`],
      files: [{ from: join(programs, program), to: `/${program}` }],
    });
    await this.#keepImage(oneProgram(pauseImage, "pause"));
    await this.#keepImage(oneProgram(dnsImage, "coredns"));
    for (const node of this.#nodeLayouts) keepNodeFiles(this.layout, node, this.#nodeFiles(pki, node));
    await Promise.all(
      this.nodes.map(async (node) => {
        await node.start();
        await this.#ready(node);
        say(`node ${node.name} is Ready`);
      }),
    );
    await this.#serving(
      "coredns",
      () => this.kubectl(["-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=1s"]),
      say,
    );
  }

  /** Puts an image where nodes take theirs from when they start. */
  async #keepImage(image: ImageDescription): Promise<void> {
    await writeImage(image, join(this.layout.images, archiveName(image.name)));
  }

  #nodeFiles(pki: Pki, node: NodeLayout) {
    const subject = { commonName: `system:node:${node.name}`, organization: "system:nodes" };
    const client = pki.client(`kubelet-${node.name}`, subject);
    const serving = pki.server(`kubelet-${node.name}-serving`, subject, [
      { type: "dns", value: node.name },
      { type: "ip", value: node.address },
    ]);
    writeKubeconfig(this.layout, pki, `node-${node.name}`, client);
    const secret = (path: string) => ({ contents: readFileSync(path, "utf8"), mode: 0o600 });
    const proxy = this.layout.kubeconfig("kube-proxy");
    return {
      files: {
        ...nodeConfiguration(node),
        "/etc/kubernetes/ca.crt": { contents: readFileSync(pki.ca.certificate, "utf8") },
        "/etc/kubernetes/kubelet.crt": { contents: readFileSync(serving.certificate, "utf8") },
        "/etc/kubernetes/kubelet.key": secret(serving.key),
        "/etc/kubernetes/kubelet.conf": { contents: kubeconfig(apiServer, pki.ca, client), mode: 0o600 },
        "/etc/kubernetes/kube-proxy.conf": secret(proxy),
      },
    };
  }

  /** When the node last said whether it is Ready. */
  async #heartbeat(name: string): Promise<string> {
    const path = "{.status.conditions[?(@.type=='Ready')].lastHeartbeatTime}";
    return this.kubectl(["get", "node", name, "-o", `jsonpath=${path}`]);
  }

  /** Waits for the node to say that it is Ready, later than it said so before where that is given. */
  async #ready(node: ClusterNode, before = ""): Promise<void> {
    const path = "{range .status.conditions[?(@.type=='Ready')]}{.status} {.lastHeartbeatTime}{end}";
    try {
      await eventually(
        `node ${node.name} to be Ready`,
        async () => {
          const answer = await this.kubectl(["get", "node", node.name, "-o", `jsonpath=${path}`]);
          const [status, heartbeat] = answer.split(" ");
          return status === "True" && heartbeat !== before;
        },
        { deadlineMs: 120_000, everyMs: 500 },
      );
    } catch (error) {
      const logs = ["containerd", "kubelet"].map((name) => `${node.name} ${name}:\n${tail(node.log(name))}`);
      throw new MeltemiError("unavailable", `${messageOf(error)}\n${logs.join("\n")}`, { cause: error });
    }
  }

  /** Waits for an answer; if the component ends meanwhile, there will be none. */
  async #serving(component: string, ask: () => Promise<string>, say: Say): Promise<void> {
    const log = this.layout.log(component);
    const since = performance.now();
    let last: unknown;
    try {
      await eventually(
        `${component} to serve`,
        async () => {
          if (ended(log) > 2) throw new MeltemiError("system", `${component} ends again and again`);
          return ask().then(
            () => true,
            (error: unknown) => {
              last = error;
              return false;
            },
          );
        },
        { deadlineMs: 120_000, everyMs: 400, errorsEnd: true },
      );
    } catch (error) {
      throw new MeltemiError("unavailable", `${messageOf(error)}: ${messageOf(last)}\n${tail(log)}`, {
        cause: error,
      });
    }
    say(`${component} serves (${((performance.now() - since) / 1000).toFixed(1)} s)`);
  }
}

const ended = (log: string): number =>
  existsSync(`${log}.exits`) ? readFileSync(`${log}.exits`, "utf8").trimEnd().split("\n").length : 0;

const list = (items: readonly object[]): object => ({ apiVersion: "v1", kind: "List", items });

/** Names for the one file. The file itself, not a link: the cache may go while the cluster runs. */
function installPrograms(layout: Layout, programs: string): void {
  mkdirSync(layout.programs, { recursive: true });
  cpSync(join(programs, "kube"), layout.program("kube"));
  for (const name of kubernetesPrograms) symlinkSync("kube", layout.program(name));
}
