import { MeltemiError } from "../../src/domain/error.js";
import { netnsPath, run, runIn } from "./command.js";

/** A node: a network namespace with a bridge for its pods, on a link shared with the others. */
export interface LabNode {
  readonly name: string;
  readonly netns: string;
  /** Its address on the link between the nodes. */
  readonly ip: string;
  /** This end of its link, in the sandbox's own namespace: where a capture sees the wire. */
  readonly wire: string;
  /** The N of its pods' subnets 10.88.N.0/24 and fd00:88:N::/64. */
  readonly subnet: number;
}

/** A pod: a network namespace on its node's bridge. */
export interface LabPod {
  readonly name: string;
  readonly netns: string;
  readonly ip: string;
  /** Its second address: every pod has both families. */
  readonly ip6: string;
  readonly node: LabNode;
}

/** The sandbox's own address on the link between the nodes: where a control plane listens. */
export const hostIp = "172.31.0.1";
const hostIp6 = "fd00:31::1";

/** Routes between pods' subnets, in both families, also where the machine has switched IPv6 off for itself. */
const forwarding = [
  "net.ipv4.ip_forward=1",
  "net.ipv6.conf.all.disable_ipv6=0",
  "net.ipv6.conf.default.disable_ipv6=0",
  "net.ipv6.conf.all.forwarding=1",
];

/** A node's address on the link between the nodes: the same digits as its IPv4 one. */
const nodeIp6 = (subnet: number): string => `fd00:31::${10 + subnet}`;

/** Commands for `ip -batch`. */
const routesTo = (node: LabNode): string[] => [
  `route add 10.88.${node.subnet}.0/24 via ${node.ip}`,
  `route add fd00:88:${node.subnet}::/64 via ${nodeIp6(node.subnet)}`,
];

/**
 * Nodes and pods on one machine, as network namespaces joined by veth links: one bridge between the
 * nodes (the wire), one bridge in each node for its pods, routes between them. Only for use in a
 * sandbox (scripts/sandbox.mjs), whose end removes everything.
 */
export class Topology {
  readonly #prefix: string;
  readonly #nodes: LabNode[] = [];
  readonly #pods = new Map<string, LabPod>();

  /** @param prefix distinguishes the namespaces of several topologies in one sandbox; at most 3 characters */
  constructor(prefix = "m") {
    if (process.env["MELTEMI_SANDBOX"] !== "1") {
      throw new MeltemiError("system", "a topology is only made inside a sandbox", {
        hint: "run through: node scripts/sandbox.mjs COMMAND",
      });
    }
    this.#prefix = prefix;
  }

  get nodes(): readonly LabNode[] {
    return this.#nodes;
  }

  get pods(): readonly LabPod[] {
    return [...this.#pods.values()];
  }

  pod(name: string): LabPod {
    const pod = this.#pods.get(name);
    if (!pod) throw new MeltemiError("not_found", `the topology has no pod ${name}`);
    return pod;
  }

  /** Makes the link and the nodes. */
  async up(nodeNames: readonly string[]): Promise<void> {
    const bridge = `${this.#prefix}-wire`;
    await run("ip", ["link", "add", bridge, "type", "bridge"]);
    await run("sysctl", ["-q", "-w", ...forwarding]);
    await run("ip", ["address", "add", `${hostIp}/24`, "dev", bridge]);
    // Nobody else is on the link: no need to wait until an address has proved to be unique.
    await run("ip", ["address", "add", `${hostIp6}/64`, "dev", bridge, "nodad"]);
    await run("ip", ["link", "set", bridge, "up"]);
    for (const [index, name] of nodeNames.entries()) await this.#addNode(name, index + 1, bridge);
    for (const node of this.#nodes) {
      const routes = this.#nodes.filter((other) => other !== node).flatMap((other) => routesTo(other));
      await runIn(node.netns, "ip", ["-batch", "-"], routes.join("\n"));
      await run("ip", ["-batch", "-"], routesTo(node).join("\n"));
    }
  }

  async #addNode(name: string, subnet: number, bridge: string): Promise<void> {
    const netns = `${this.#prefix}-${name}`;
    const wire = `${this.#prefix}-w${subnet}`;
    const ip = `172.31.0.${10 + subnet}`;
    await run("ip", ["netns", "add", netns]);
    await run("ip", ["link", "add", "name", wire, "type", "veth", "peer", "name", "eth0", "netns", netns]);
    await run("ip", ["link", "set", wire, "master", bridge, "up"]);
    await runIn(netns, "sysctl", ["-q", "-w", ...forwarding]);
    const setup = [
      "link set lo up",
      "link set eth0 up",
      `address add ${ip}/24 dev eth0`,
      `address add ${nodeIp6(subnet)}/64 dev eth0 nodad`,
      `route add default via ${hostIp}`,
      `route add default via ${hostIp6}`,
      "link add name pods type bridge",
      "link set pods up",
      `address add 10.88.${subnet}.1/24 dev pods`,
      `address add fd00:88:${subnet}::1/64 dev pods nodad`,
    ];
    await runIn(netns, "ip", ["-batch", "-"], setup.join("\n"));
    this.#nodes.push({ name, netns, ip, wire, subnet });
  }

  /** Adds a pod to a node; its addresses are 10.88.SUBNET.HOST and fd00:88:SUBNET::HOST (the same digits). */
  async addPod(name: string, nodeName: string, host: number): Promise<LabPod> {
    const node = this.#nodes.find((candidate) => candidate.name === nodeName);
    if (!node) throw new MeltemiError("not_found", `the topology has no node ${nodeName}`);
    const netns = `${this.#prefix}-${name}`;
    const ip = `10.88.${node.subnet}.${host}`;
    const ip6 = `fd00:88:${node.subnet}::${host}`;
    await run("ip", ["netns", "add", netns]);
    const link = `p${node.subnet}x${host}`;
    await runIn(node.netns, "ip", [
      "link",
      "add",
      "name",
      link,
      "type",
      "veth",
      "peer",
      "name",
      "eth0",
      "netns",
      netnsPath(netns),
    ]);
    await runIn(node.netns, "ip", ["link", "set", link, "master", "pods", "up"]);
    const setup = [
      "link set lo up",
      "link set eth0 up",
      `address add ${ip}/24 dev eth0`,
      `address add ${ip6}/64 dev eth0 nodad`,
      `route add default via 10.88.${node.subnet}.1`,
      `route add default via fd00:88:${node.subnet}::1`,
    ];
    await runIn(netns, "ip", ["-batch", "-"], setup.join("\n"));
    const pod = { name, netns, ip, ip6, node };
    this.#pods.set(name, pod);
    return pod;
  }

  async removePod(name: string): Promise<void> {
    const pod = this.pod(name);
    this.#pods.delete(name);
    await run("ip", ["netns", "delete", pod.netns]);
  }

  /** Removes what `up` and `addPod` made, for several topologies after another in one sandbox. */
  async down(): Promise<void> {
    for (const pod of this.pods) await this.removePod(pod.name);
    for (const node of this.#nodes.splice(0)) {
      await run("ip", ["link", "delete", node.wire]);
      await run("ip", ["netns", "delete", node.netns]);
    }
    await run("ip", ["link", "delete", `${this.#prefix}-wire`]);
  }
}
