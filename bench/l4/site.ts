import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { LongRunning } from "../../demo/lab/long-running.js";
import { flags } from "../../demo/lab/flags.js";
import { runIn } from "../../demo/lab/command.js";
import { type LabPod, Topology } from "../../demo/lab/topology.js";
import { type Contender, direct, ports, type Served } from "./contender.js";
import { EnvoyPair } from "./envoy.js";
import { manifests } from "./manifests.js";
import { Mesh } from "./mesh.js";
import { listens } from "./processes.js";
import { eventually } from "../../demo/lab/command.js";

export type ContenderName = "direct" | "meltemi" | "envoy" | "ztunnel";

/** The programs that are measured, and the one that measures. */
export interface Programs {
  readonly proxy: string;
  readonly testkit: string;
  readonly envoy: string | undefined;
  readonly ztunnel: string | undefined;
}

/** Client's and server's node: two for all that is ours, direct or Envoy, two more for the peer's mesh. */
const nodesOf: Readonly<Record<ContenderName, readonly [string, string]>> = {
  direct: ["n1", "n2"],
  meltemi: ["n1", "n2"],
  envoy: ["n1", "n2"],
  ztunnel: ["z1", "z2"],
};

const base = "/run/meltemi/bench";
const envoyPort = (served: Served): { listen: number; tls: number; server: number } => {
  const server = ports[served];
  return { listen: 20_000 + (server % 1000), tls: 21_000 + (server % 1000), server };
};

/** Nodes, pods and servers, and on them, one instance after the other, what is compared. */
export class Site {
  readonly #topology = new Topology("b");
  readonly #programs: Programs;
  readonly #names: readonly ContenderName[];
  readonly #servers: LongRunning[] = [];
  #instances = 0;
  #mesh: Mesh | undefined;
  #envoy: EnvoyPair | undefined;

  constructor(programs: Programs, names: readonly ContenderName[]) {
    this.#programs = programs;
    this.#names = names;
  }

  #pods(name: ContenderName): readonly [LabPod, LabPod] {
    return [this.#topology.pod(`${name}-client`), this.#topology.pod(`${name}-server`)];
  }

  /** Makes all that stays: a client and a server pod for each contender, and servers in the latter. */
  async up(): Promise<void> {
    await this.#topology.up([...new Set(this.#names.flatMap((name) => nodesOf[name]))]);
    for (const [index, name] of this.#names.entries()) {
      const [near, far] = nodesOf[name];
      await this.#topology.addPod(`${name}-client`, near, 10 + index);
      const { netns } = await this.#topology.addPod(`${name}-server`, far, 10 + index);
      for (const args of [
        ["http", ...flags({ listen: `0.0.0.0:${ports.http}` })],
        ["tcp", ...flags({ listen: `0.0.0.0:${ports.sink}`, sink: true })],
        ["tcp", ...flags({ listen: `0.0.0.0:${ports.source}`, source: 0 })],
        ["tcp", ...flags({ listen: `0.0.0.0:${ports.echo}` })],
      ])
        this.#servers.push(new LongRunning(netns, this.#programs.testkit, ["serve", ...args]));
    }
    await Promise.all(this.#servers.map((server) => server.ready));
    // Ports enough for the connections of one measurement, and none that capture listens on.
    for (const { netns } of [...this.#topology.pods, ...this.#topology.nodes])
      await runIn(netns, "sysctl", ["-q", "-w", "net.ipv4.ip_local_port_range=22000 65000"]);
    const config = join(base, "config");
    await mkdir(config, { recursive: true });
    const meshed = this.#names
      .filter((name) => name === "meltemi" || name === "ztunnel")
      .flatMap((name) => this.#pods(name));
    await writeFile(join(config, "mesh.yaml"), manifests(this.#topology, meshed));
  }

  /** Starts every contender anew, and gives them once all could carry traffic; none has carried any. */
  async start(): Promise<readonly Contender[]> {
    this.#instances += 1;
    const directory = join(base, String(this.#instances));
    const { ztunnel, envoy, proxy } = this.#programs;
    const meshed = this.#names.filter((name) => name === "meltemi" || name === "ztunnel");
    if (meshed.length > 0) {
      this.#mesh = new Mesh(join(base, "config"), directory, proxy);
      await this.#mesh.up(
        meshed.flatMap((name) => this.#pods(name)),
        meshed.includes("ztunnel") && ztunnel !== undefined
          ? { binary: ztunnel, nodes: new Set(nodesOf.ztunnel) }
          : undefined,
      );
    }
    if (this.#names.includes("envoy") && envoy !== undefined) {
      this.#envoy = new EnvoyPair();
      const wanted = (Object.keys(ports) as Served[]).map(envoyPort);
      await this.#envoy.start(envoy, join(directory, "envoy"), ...this.#pods("envoy"), wanted);
      const [near = 0, far = 0] = this.#envoy.pids;
      await eventually("the Envoys to listen", () =>
        wanted.every(({ listen, tls }) => listens(near, listen) && listens(far, tls)) ? true : undefined,
      );
    }
    return this.#names.map((name) => this.#contender(name));
  }

  #contender(name: ContenderName): Contender {
    const [client, server] = this.#pods(name);
    const plain = direct(client, server);
    switch (name) {
      case "direct":
        return plain;
      case "meltemi":
        return { ...plain, name, encrypted: true, charged: () => this.#running().charged(nodesOf.meltemi) };
      case "ztunnel":
        return {
          ...plain,
          name,
          encrypted: true,
          charged: () => this.#running().chargedWithZtunnels(nodesOf.ztunnel),
        };
      case "envoy":
        return {
          ...plain,
          name,
          encrypted: true,
          address: (served) => `127.0.0.1:${envoyPort(served).listen}`,
          charged: () => Promise.resolve({ proxies: this.#envoy?.pids ?? [], agents: [] }),
        };
    }
  }

  #running(): Mesh {
    if (!this.#mesh) throw new Error("the mesh is not started");
    return this.#mesh;
  }

  controlPlane(): Promise<number> | undefined {
    return this.#mesh?.controlPlane();
  }

  /** Ends the contenders; nodes, pods and servers stay. */
  async stop(): Promise<void> {
    this.#envoy?.stop();
    await this.#mesh?.down();
    this.#envoy = undefined;
    this.#mesh = undefined;
  }

  /** The sandbox ends the rest. */
  down(): void {
    for (const server of this.#servers) server.kill();
  }
}
