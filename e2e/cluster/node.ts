/** A node: namespaces of its own inside the machine's, with containerd, kubelet and kube-proxy. */
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { stringify } from "yaml";
import { eventually } from "../../demo/lab/command.js";
import { MeltemiError } from "../../src/domain/error.js";
import { makeCgroup, removeCgroup } from "./cgroups.js";
import { network, type Layout, type NodeLayout } from "./layout.js";
import type { Machine } from "./machine.js";
import { importImagesScript, joinCgroups, rootScript, servicesScript } from "./node-scripts.js";
import { killAll, marked } from "./process-table.js";

export const mark = "meltemi-cluster-node";
export const pauseImage = "docker.io/meltemi/pause:1";
const debianPlugins = "/usr/lib/cni";

/** What a node was given when it was made: it comes back with the same after it has lost everything. */
export interface NodeFiles {
  /** Path on the node, contents. */
  readonly files: Readonly<Record<string, { readonly contents: string; readonly mode?: number }>>;
}

export class ClusterNode {
  constructor(
    readonly machine: Machine,
    readonly layout: Layout,
    readonly node: NodeLayout,
    readonly peers: readonly NodeLayout[],
  ) {}

  get name(): string {
    return this.node.name;
  }

  /** Its first process as seen from outside, while it runs. */
  get pid(): number | undefined {
    return marked([mark, this.layout.directory, this.name]).find((one) => one.shell)?.pid;
  }

  log(service: string): string {
    return join(this.node.root, "var/log", `${service}.log`);
  }

  /** Starts it, with what is on its disk. Files that it was installed with are put there again. */
  async start(): Promise<void> {
    this.#install();
    makeCgroup(this.node.cgroup);
    await this.#connect();
    await this.machine.start(this.layout.log(`node-${this.name}`), [
      ...["sh", "-c", joinCgroups, "join", this.node.cgroup, "nsenter", `--net=/run/netns/${this.name}`],
      ...["unshare", "--mount", "--pid", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child"],
      ...["sh", "-c", rootScript, ...this.#starting],
    ]);
    await eventually(`node ${this.name} to have its services`, () => this.#runs(), {
      deadlineMs: 90_000,
      errorsEnd: true,
    });
  }

  /** As if its power were cut. */
  async kill(): Promise<void> {
    await killAll(this.#processes.map(({ pid }) => pid));
    await this.machine.run(["sh", "-c", `ip netns del ${this.name} 2>/dev/null || true`]);
    await removeCgroup(this.node.cgroup);
  }

  /** As a shutdown without a service manager: SIGTERM for all, some time, and then the power. */
  async stop(graceMs = 3_000): Promise<void> {
    const { pid } = this;
    if (pid !== undefined) {
      await this.machine
        .run(["nsenter", `--target=${this.#inMachine(pid)}`, "--pid", "--", "kill", "-TERM", "-1"])
        .catch(() => undefined);
      await sleep(graceMs);
    }
    await this.kill();
  }

  /** Empties its disk; it has to be down. */
  loseState(): void {
    rmSync(this.node.root, { recursive: true, force: true });
  }

  /** Runs a command in all of the node's namespaces. */
  run(command: readonly string[]): Promise<string> {
    const { pid } = this;
    if (pid === undefined) return Promise.reject(new Error(`node ${this.name} is down`));
    return this.machine.run([
      ...[
        "nsenter",
        `--target=${this.#inMachine(pid)}`,
        "--net",
        "--mount",
        "--pid",
        "--uts",
        "--ipc",
        "--root",
        "--",
      ],
      ...command,
    ]);
  }

  /** Imports the archives that it does not have yet. */
  async importImages(): Promise<void> {
    await this.run(["/etc/import-images.sh"]);
  }

  /** The arguments by which its first process is known until it has a root of its own. */
  get #starting(): readonly string[] {
    const { directory, images, programs } = this.layout;
    return [mark, directory, this.name, this.node.root, images, programs, this.node.cgroup];
  }

  /** Its first process and those that started it. */
  get #processes(): ReturnType<typeof marked> {
    return [...marked([mark, this.layout.directory, this.name]), ...marked(this.#starting)];
  }

  #runs(): boolean {
    const { pid } = this;
    if (this.#processes.length === 0) {
      const log = this.layout.log(`node-${this.name}`);
      throw new MeltemiError(
        "system",
        `node ${this.name} ended while it started:\n${readFileSync(log, "utf8").slice(-2_000)}`,
      );
    }
    return pid !== undefined && existsSync(`/proc/${pid}/root/run/node.up`);
  }

  /** Its first process's id in the machine's namespace. */
  #inMachine(pid: number): number {
    const ids = /^NSpid:\s+(.*)$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? "";
    return Number(ids.split(/\s+/).at(-2));
  }

  /** A link to the machine's bridge, and routes to the other nodes' pods. */
  async #connect(): Promise<void> {
    const { name, address, pods } = this.node;
    const { lan } = network;
    const inNode = (line: string): string => `ip -n ${name} ${line}`;
    await this.machine.run([
      "sh",
      "-ec",
      [
        // The kernel takes a namespace down in its own time: the link of a node that has just died may still be there.
        `ip link delete ${name} 2>/dev/null || true`,
        `ip netns add ${name}`,
        `ip link add ${name} type veth peer name eth0 netns ${name}`,
        `ip link set ${name} master ${lan.bridge} up`,
        inNode("link set lo up"),
        inNode("link set eth0 up"),
        inNode(`addr add ${address}/${lan.bits} dev eth0`),
        inNode(`route add default via ${lan.address}`),
        ...this.peers
          .filter((peer) => peer.name !== name)
          .map((peer) => inNode(`route add ${peer.pods} via ${peer.address}`)),
        `nsenter --net=/run/netns/${name} sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'`,
        `ip route replace ${pods} via ${address}`,
      ].join("\n"),
    ]);
  }

  /** Everything that an installer would have put on its disk. */
  #install(): void {
    const { root, name } = this.node;
    const kept = JSON.parse(readFileSync(this.#installed, "utf8")) as NodeFiles;
    const write = (path: string, contents: string, mode = 0o644): void => {
      const target = join(root, path);
      mkdirSync(dirname(target), { recursive: true });
      writeFileSync(target, contents, { mode });
    };
    for (const [path, { contents, mode }] of Object.entries(kept.files)) write(path, contents, mode);
    write("/etc/meltemi-node.sh", servicesScript);
    write("/etc/supervise.sh", readFileSync(this.layout.supervisor, "utf8"), 0o755);
    write("/etc/import-images.sh", importImagesScript, 0o755);
    write("/etc/hostname", `${name}\n`);
    write("/etc/hosts", `127.0.0.1 localhost\n${this.node.address} ${name}\n`);
    write("/etc/resolv.conf", `nameserver ${network.lan.address}\n`);
    write("/etc/os-release", 'PRETTY_NAME="Meltemi test node"\n');
    mkdirSync(join(root, "opt/cni/bin"), { recursive: true });
    for (const plugin of readdirSync(debianPlugins)) {
      const link = join(root, "opt/cni/bin", plugin);
      if (lstatSync(link, { throwIfNoEntry: false }) === undefined)
        symlinkSync(join(debianPlugins, plugin), link);
    }
  }

  get #installed(): string {
    return installedFile(this.layout, this.node);
  }
}

const installedFile = (layout: Layout, node: NodeLayout): string =>
  join(layout.directory, "nodes", `${node.name}.json`);

/** Keeps what a node is installed with. */
export function keepNodeFiles(layout: Layout, node: NodeLayout, files: NodeFiles): void {
  const path = installedFile(layout, node);
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  writeFileSync(path, JSON.stringify(files), { mode: 0o600 });
}

/** The node's configurations. */
export function nodeConfiguration(node: NodeLayout): NodeFiles["files"] {
  const containerd = `version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.tracing"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  sandbox_image = "${pauseImage}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
`;
  const kubelet = {
    apiVersion: "kubelet.config.k8s.io/v1beta1",
    kind: "KubeletConfiguration",
    containerRuntimeEndpoint: "unix:///run/containerd/containerd.sock",
    authentication: {
      anonymous: { enabled: false },
      webhook: { enabled: true },
      x509: { clientCAFile: "/etc/kubernetes/ca.crt" },
    },
    authorization: { mode: "Webhook" },
    tlsCertFile: "/etc/kubernetes/kubelet.crt",
    tlsPrivateKeyFile: "/etc/kubernetes/kubelet.key",
    clusterDNS: [network.dns],
    clusterDomain: network.domain,
    resolvConf: "/etc/resolv.conf",
    // The machine decides whether there is swap and which version of cgroups.
    failSwapOn: false,
    failCgroupV1: false,
    cgroupDriver: "cgroupfs",
    enforceNodeAllocatable: ["pods"],
    evictionHard: { "nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "50Mi" },
    imageGCHighThresholdPercent: 100,
    imageGCLowThresholdPercent: 99,
    nodeStatusUpdateFrequency: "4s",
    nodeStatusReportFrequency: "1m",
    nodeLeaseDurationSeconds: 16,
  };
  const proxy = {
    apiVersion: "kubeproxy.config.k8s.io/v1alpha1",
    kind: "KubeProxyConfiguration",
    mode: "nftables",
    clientConnection: { kubeconfig: "/etc/kubernetes/kube-proxy.conf" },
    hostnameOverride: node.name,
    clusterCIDR: network.pods,
    healthzBindAddress: "0.0.0.0:10256",
    // The table's size is the whole kernel's.
    conntrack: { maxPerCore: 0, min: 0 },
  };
  const cni = {
    cniVersion: "1.0.0",
    name: "pods",
    plugins: [
      {
        type: "bridge",
        bridge: "cni0",
        isGateway: true,
        ipMasq: false,
        hairpinMode: true,
        ipam: { type: "host-local", ranges: [[{ subnet: node.pods }]], routes: [{ dst: "0.0.0.0/0" }] },
      },
      { type: "portmap", capabilities: { portMappings: true } },
    ],
  };
  return {
    "/etc/containerd/config.toml": { contents: containerd },
    "/etc/kubernetes/kubelet.yaml": { contents: stringify({ ...kubelet }) },
    "/etc/kubernetes/kube-proxy.yaml": { contents: stringify(proxy) },
    "/etc/cni/net.d/10-pods.conflist": { contents: JSON.stringify(cni) },
  };
}
