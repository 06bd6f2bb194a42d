/** What a kubelet does with pods of a node, as far as the network is concerned: sandboxes made, the plugin asked, sandboxes taken down. */
import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { netnsPath, runIn } from "../../../../demo/lab/command.js";
import type { LabNode, LabPod, Topology } from "../../../../demo/lab/topology.js";
import { callCni, pluginProgram, type CniAnswer } from "../../cni/plugin.js";

export interface Attached {
  readonly containerId: string;
  readonly netns: string;
  readonly ip: string;
  readonly ip6?: string;
  readonly name: string;
}

/** The plugin, called in a node's network namespace, chained after plugins that have given the pod its address. */
export class Plugin {
  readonly #program: string;

  /** @param directory for a file of its own */
  constructor(
    node: LabNode,
    directory: string,
    private readonly config: { readonly socket: string; readonly list: string },
  ) {
    this.#program = join(directory, "cni-in-node.sh");
    writeFileSync(
      this.#program,
      `#!/bin/sh\nexec nsenter --net=${netnsPath(node.netns)} -- ${pluginProgram}\n`,
    );
    chmodSync(this.#program, 0o755);
  }

  add(pod: Attached): Promise<CniAnswer> {
    return this.#call("ADD", pod);
  }

  del(pod: Attached): Promise<CniAnswer> {
    return this.#call("DEL", pod);
  }

  #call(verb: string, { containerId, netns, ip, ip6, name }: Attached): Promise<CniAnswer> {
    const addresses = [`${ip}/16`, ...(ip6 === undefined ? [] : [`${ip6}/64`])];
    const prevResult = {
      cniVersion: "1.0.0",
      interfaces: [{ name: "eth0", sandbox: netnsPath(netns) }],
      ips: addresses.map((address) => ({ address, interface: 0 })),
    };
    const config = {
      cniVersion: "1.0.0",
      name: "pods",
      type: "meltemi-cni",
      timeoutMs: 10_000,
      ...this.config,
      prevResult,
    };
    const pod = { containerId, netns: netnsPath(netns), pod: `shop/${name}`, uid: `uid-${name}` };
    return callCni({ verb, config, ...pod }, this.#program);
  }
}

/** A pod's sandbox in a topology: each is a new namespace and link, with the same addresses. */
export class PodSandbox {
  #count = 0;

  constructor(
    private readonly topology: Topology,
    private readonly name: string,
    private readonly node: string,
    private readonly host: number,
  ) {}

  async make(): Promise<{ readonly pod: LabPod; readonly attached: Attached }> {
    const pod = await this.topology.addPod(this.name, this.node, this.host);
    const { netns, ip, ip6, name } = pod;
    return { pod, attached: { containerId: `${name}-${(this.#count += 1)}`, netns, ip, ip6, name } };
  }

  /** The link at once: the kernel takes a namespace away a moment after its name. */
  async remove(): Promise<void> {
    const { node } = this.topology.pod(this.name);
    await runIn(node.netns, "ip", ["link", "delete", `p${node.subnet}x${this.host}`]);
    await this.topology.removePod(this.name);
  }
}
