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
  /** The third octet of its pods' subnet 10.88.N.0/24. */
  readonly subnet: number;
}

/** A pod: a network namespace on its node's bridge. */
export interface LabPod {
  readonly name: string;
  readonly netns: string;
  readonly ip: string;
  readonly node: LabNode;
}

/** The sandbox's own address on the link between the nodes: where a control plane listens. */
export const hostIp = "172.31.0.1";

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
    await run("ip", ["address", "add", `${hostIp}/24`, "dev", bridge]);
    await run("ip", ["link", "set", bridge, "up"]);
    await run("sysctl", ["-q", "-w", "net.ipv4.ip_forward=1"]);
    for (const [index, name] of nodeNames.entries()) await this.#addNode(name, index + 1, bridge);
    for (const node of this.#nodes) {
      const routes = this.#nodes
        .filter((other) => other !== node)
        .map((other) => `route add 10.88.${other.subnet}.0/24 via ${other.ip}`);
      await runIn(node.netns, "ip", ["-batch", "-"], routes.join("\n"));
      await run("ip", ["route", "add", `10.88.${node.subnet}.0/24`, "via", node.ip]);
    }
  }

  async #addNode(name: string, subnet: number, bridge: string): Promise<void> {
    const netns = `${this.#prefix}-${name}`;
    const wire = `${this.#prefix}-w${subnet}`;
    const ip = `172.31.0.${10 + subnet}`;
    await run("ip", ["netns", "add", netns]);
    await run("ip", ["link", "add", "name", wire, "type", "veth", "peer", "name", "eth0", "netns", netns]);
    await run("ip", ["link", "set", wire, "master", bridge, "up"]);
    const setup = [
      "link set lo up",
      "link set eth0 up",
      `address add ${ip}/24 dev eth0`,
      `route add default via ${hostIp}`,
      "link add name pods type bridge",
      "link set pods up",
      `address add 10.88.${subnet}.1/24 dev pods`,
    ];
    await runIn(netns, "ip", ["-batch", "-"], setup.join("\n"));
    await runIn(netns, "sysctl", ["-q", "-w", "net.ipv4.ip_forward=1"]);
    this.#nodes.push({ name, netns, ip, wire, subnet });
  }

  /** Adds a pod to a node; its address is 10.88.SUBNET.HOST. */
  async addPod(name: string, nodeName: string, host: number): Promise<LabPod> {
    const node = this.#nodes.find((candidate) => candidate.name === nodeName);
    if (!node) throw new MeltemiError("not_found", `the topology has no node ${nodeName}`);
    const netns = `${this.#prefix}-${name}`;
    const ip = `10.88.${node.subnet}.${host}`;
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
      `route add default via 10.88.${node.subnet}.1`,
    ];
    await runIn(netns, "ip", ["-batch", "-"], setup.join("\n"));
    const pod = { name, netns, ip, node };
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
