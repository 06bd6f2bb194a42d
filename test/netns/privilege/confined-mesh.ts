/** Two confined nodes under one control plane: a server's pod on the one, a client's on the other. */
import { mkdirSync, rmSync } from "node:fs";
import type { ChildProcess } from "node:child_process";
import { join } from "node:path";
import { execa } from "execa";
import { startIn } from "../../../demo/lab/command.js";
import { Topology, type LabPod } from "../../../demo/lab/topology.js";
import type { Mode } from "../../../bench/capture/modes.js";
import { ControlPlaneProcess } from "../../helpers/control-plane-process.js";
import { eventually } from "../../helpers/eventually.js";
import { ConfinedNode, root } from "./confined-node.js";

const testkit = join(root, "target/release/meltemi-testkit");

const namespace = (mesh: "ambient" | "none"): string => `apiVersion: v1
kind: Namespace
metadata: { name: shop, labels: { istio.io/dataplane-mode: ${mesh} } }
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default, namespace: shop }
spec: { mtls: { mode: STRICT } }
`;

export class ConfinedMesh {
  readonly topology: Topology;
  readonly controlPlane = new ControlPlaneProcess();
  readonly nodes = new Map<string, ConfinedNode>();
  readonly #programs: ChildProcess[] = [];
  #bpffs = false;

  constructor(
    prefix: string,
    readonly directory: string,
    private readonly mode: Mode,
  ) {
    this.topology = new Topology(prefix);
    mkdirSync(directory, { recursive: true });
  }

  node(name: string): ConfinedNode {
    const node = this.nodes.get(name);
    if (node === undefined) throw new Error(`no node ${name}`);
    return node;
  }

  /** Makes nodes n1 (pod cart, serving HTTP) and n2 (pod front), and starts the control plane. */
  async up(): Promise<void> {
    await this.topology.up(["n1", "n2"]);
    const cart = await this.topology.addPod("cart", "n1", 10);
    const front = await this.topology.addPod("front", "n2", 10);
    this.enrol();
    for (const pod of [cart, front]) {
      const server = startIn(pod.netns, testkit, [
        "serve",
        "http",
        "--listen",
        "0.0.0.0:8080",
        "--name",
        pod.name,
      ]);
      this.#programs.push(server);
      // Named through a process, as the namespaces of a container runtime's pods are found.
      this.#writePod(pod, `/proc/${server.pid ?? 0}/ns/net`);
    }
    await this.controlPlane.start();
    for (const node of this.topology.nodes)
      this.nodes.set(node.name, new ConfinedNode(node, this.controlPlane, this.directory, this.mode));
  }

  #writePod({ name, ip, node }: LabPod, netns: string): void {
    this.controlPlane.write(
      `${name}.yaml`,
      `apiVersion: v1
kind: Pod
metadata: { name: ${name}, namespace: shop, labels: { app: ${name} }, annotations: { meltemi.io/netns: ${netns} } }
spec: { nodeName: ${node.name}, serviceAccountName: ${name}, containers: [{ name: c, image: x }] }
status: { podIP: ${ip}, phase: Running }
`,
    );
  }

  /** For each node the bpffs of its host. */
  async mountBpffs(): Promise<void> {
    this.#bpffs = true;
    for (const node of this.nodes.values()) await node.mountBpffs();
  }

  enrol(): void {
    this.controlPlane.write("mesh.yaml", namespace("ambient"));
  }

  unEnrol(): void {
    this.controlPlane.write("mesh.yaml", namespace("none"));
  }

  start(): void {
    for (const node of this.nodes.values()) {
      node.start("agent");
      node.start("data-plane");
    }
  }

  enrolled(): Promise<unknown> {
    return Promise.all([
      this.node("n1").podReaches("cart", "enrolled"),
      this.node("n2").podReaches("front", "enrolled"),
    ]);
  }

  /** Whether front gets an answer from cart; under STRICT only over mutual TLS. */
  async request(): Promise<boolean> {
    const url = `http://${this.topology.pod("cart").ip}:8080/`;
    const netns = `--net=/run/netns/${this.topology.pod("front").netns}`;
    const args = ["client", "http", "--url", url, "--requests", "1"];
    const { stdout } = await execa("nsenter", [netns, "--", testkit, ...args], { reject: false });
    return (JSON.parse(stdout.trim().split("\n").at(-1) ?? "{}") as { ok?: number }).ok === 1;
  }

  works(): Promise<true> {
    return eventually("a request over the mesh", () => this.request(), 30_000);
  }

  async down(): Promise<void> {
    await Promise.all([...this.nodes.values()].map((node) => node.stop()));
    if (this.#bpffs) for (const node of this.nodes.values()) await node.unmountBpffs();
    await this.controlPlane.remove();
    for (const program of this.#programs) program.kill("SIGKILL");
    await this.topology.down();
    rmSync(this.directory, { recursive: true, force: true });
  }
}
