import { join } from "node:path";
import { rename, writeFile } from "node:fs/promises";
import { flags } from "../../demo/lab/flags.js";
import { LongRunning } from "../../demo/lab/long-running.js";
import { runIn } from "../../demo/lab/command.js";
import { type LabNode, type LabPod, Topology } from "../../demo/lab/topology.js";
import { ports } from "../l4/contender.js";
import { root } from "../report/machine.js";
import { ControlPlane } from "./control-plane.js";
import { captured, namespaces, plain, yaml } from "./manifests.js";
import type { Mode } from "./modes.js";
import { NodeAgent } from "./node-agent.js";

const base = "/run/meltemi/bench-capture";
const meltemi = join(root, "bin/meltemi");
export const singles = 5;

/** A node for each mode and one without the mesh; on each a client and a server that is outside of the mesh. */
export class CaptureLab {
  readonly #topology = new Topology("k");
  readonly #servers: LongRunning[] = [];
  readonly #controlPlane = new ControlPlane(meltemi, join(base, "mesh"));
  /** A mesh of its own for the crowds. */
  readonly #crowdsControlPlane = new ControlPlane(meltemi, join(base, "crowds"));
  #instances = 0;

  constructor(
    private readonly programs: { readonly proxy: string; readonly testkit: string },
    private readonly modes: readonly Mode[],
  ) {}

  node(mode: Mode | "direct"): LabNode {
    const node = this.#topology.nodes.find(({ name }) => name === mode);
    if (node === undefined) throw new Error(`no node for ${mode}`);
    return node;
  }

  client(mode: Mode | "direct"): LabPod {
    return this.#topology.pod(`${mode}-client`);
  }

  server(mode: Mode | "direct"): LabPod {
    return this.#topology.pod(`${mode}-server`);
  }

  /** A pod that is captured on its own, to see how long that takes. */
  single(mode: Mode, index: number): LabPod {
    return this.#topology.pod(`${mode}-single-${index}`);
  }

  async up(): Promise<void> {
    const all = [...this.modes, "direct" as const];
    await this.#topology.up(all);
    for (const name of all) {
      await this.#topology.addPod(`${name}-client`, name, 10);
      const { netns } = await this.#topology.addPod(`${name}-server`, name, 11);
      for (const args of [
        ["http", ...flags({ listen: `0.0.0.0:${ports.http}` })],
        ["tcp", ...flags({ listen: `0.0.0.0:${ports.sink}`, sink: true })],
        ["tcp", ...flags({ listen: `0.0.0.0:${ports.echo}`, sink: true })],
      ])
        this.#servers.push(new LongRunning(netns, this.programs.testkit, ["serve", ...args]));
    }
    for (const mode of this.modes)
      for (let index = 0; index < singles; index++)
        await this.#topology.addPod(`${mode}-single-${index}`, mode, 20 + index);
    await Promise.all(this.#servers.map((server) => server.ready));
    for (const { netns } of this.#topology.pods)
      await runIn(netns, "sysctl", ["-q", "-w", "net.ipv4.ip_local_port_range=22000 65000"]);
    const pods = this.modes.flatMap((mode) => [captured(this.client(mode)), plain(this.server(mode))]);
    await writeFile(join(this.#controlPlane.config, "mesh.yaml"), yaml([...namespaces, ...pods]));
    await this.#controlPlane.start(this.modes);
    const servers = this.modes.map((mode) => plain(this.server(mode)));
    await writeFile(join(this.#crowdsControlPlane.config, "mesh.yaml"), yaml([...namespaces, ...servers]));
    await this.#crowdsControlPlane.start(this.modes);
  }

  /** Starts the agents of all modes anew; each has its client enrolled. */
  async start(): Promise<ReadonlyMap<Mode, NodeAgent>> {
    this.#instances += 1;
    const agents = new Map<Mode, NodeAgent>();
    for (const mode of this.modes) {
      const agent = this.#agent(mode, this.#controlPlane, "mesh");
      agents.set(mode, agent);
      await agent.start();
      await agent.enrolled(1);
    }
    return agents;
  }

  /** The agent of the mode's crowd: none of the lab's pods is its. */
  crowdAgent(mode: Mode): NodeAgent {
    return this.#agent(mode, this.#crowdsControlPlane, "crowd");
  }

  #agent(mode: Mode, controlPlane: ControlPlane, kind: "mesh" | "crowd"): NodeAgent {
    return new NodeAgent({
      meltemi,
      proxy: this.programs.proxy,
      node: this.node(mode),
      directory: join(base, `${kind}-${mode}-${this.#instances}`),
      flags: ["--redirect-mode", mode],
      controlPlane,
    });
  }

  /** Asks for the mesh for one more pod, or (without one) for none of them any more. Gives when, in milliseconds of the epoch. */
  async ask(mode: Mode, pod: LabPod | undefined): Promise<number> {
    const file = join(this.#controlPlane.config, `${mode}-single.yaml`);
    await writeFile(`${file}.new`, pod === undefined ? "" : yaml([captured(pod)]));
    const atMs = performance.timeOrigin + performance.now();
    await rename(`${file}.new`, file);
    return atMs;
  }

  /** The sandbox ends the rest. */
  down(): void {
    this.#controlPlane.stop();
    this.#crowdsControlPlane.stop();
    for (const server of this.#servers) server.kill();
  }
}
