import { netnsPath, run, runIn } from "../../demo/lab/command.js";
import type { LabNode } from "../../demo/lab/topology.js";

/** A pod of a crowd: a network namespace with one address on its node's bridge. */
export interface CrowdPod {
  readonly name: string;
  readonly netns: string;
  readonly ip: string;
}

/** From the tenth on, of 10.89.0.0/16: 250 addresses of each /24. */
const ipOf = (index: number): string => `10.89.${Math.floor(index / 250)}.${(index % 250) + 2}`;

/**
 * Hundreds of pods on one node. Namespaces and links are made by a few programs with many commands, so that
 * making them takes seconds.
 */
export class Crowd {
  readonly pods: readonly CrowdPod[];

  constructor(
    private readonly node: LabNode,
    prefix: string,
    count: number,
  ) {
    this.pods = Array.from({ length: count }, (_, index) => ({
      name: `${prefix}${index}`,
      netns: `${prefix}-${index}`,
      ip: ipOf(index),
    }));
  }

  async up(): Promise<void> {
    const { netns } = this.node;
    await run("ip", ["-batch", "-"], this.pods.map((pod) => `netns add ${pod.netns}`).join("\n"));
    await runIn(netns, "ip", ["address", "add", "10.89.255.254/16", "dev", "pods"]);
    const links = this.pods.flatMap((pod) => [
      `link add name ${pod.netns} type veth peer name eth0 netns ${netnsPath(pod.netns)}`,
      `link set ${pod.netns} master pods up`,
    ]);
    await runIn(netns, "ip", ["-batch", "-"], links.join("\n"));
    // One shell for all: what costs is the programs' start.
    const inside = this.pods.map(
      (pod) => `nsenter --net=${netnsPath(pod.netns)} ip -batch - <<END
link set lo up
link set eth0 up
address add ${pod.ip}/16 dev eth0
route add default via 10.89.255.254
END`,
    );
    await run("sh", ["-e"], inside.join("\n"));
  }

  /**
   * Its manifests: a Pod each, in namespace `shop`. Without their places they wait for what the CNI plugin tells.
   */
  manifests(places = true): string {
    return this.pods
      .map(
        ({ name, netns, ip }) => `apiVersion: v1
kind: Pod
metadata: { name: ${name}, namespace: shop, uid: uid-${name}${places ? `, annotations: { meltemi.io/netns: ${netns} }` : ""} }
spec: { nodeName: ${this.node.name}, serviceAccountName: ${name}, containers: [{ name: c, image: x }] }
status: { podIP: ${ip}, phase: Running }
`,
      )
      .join("---\n");
  }

  async down(): Promise<void> {
    await run("ip", ["-batch", "-"], this.pods.map((pod) => `netns delete ${pod.netns}`).join("\n"));
  }
}
