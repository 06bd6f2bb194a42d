import { existsSync } from "node:fs";
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { MeltemiError } from "../src/domain/error.js";
import { execa } from "execa";
import { eventually, startIn } from "./lab/command.js";
import { flags } from "./lab/flags.js";
import { Issuer } from "./lab/issuer.js";
import { LongRunning } from "./lab/long-running.js";
import { hostIp, type LabPod, Topology } from "./lab/topology.js";
import * as kitchen from "./kitchen.js";
import * as manifests from "./manifests.js";
import type { CaptureChoice } from "./report.js";

/** The repository's root, from this file or from what it is compiled to. */
export const root = repositoryOf(fileURLToPath(new URL(".", import.meta.url)));
export const testkit = join(root, "target/release/meltemi-testkit");
const meltemi = join(root, "bin/meltemi");

function repositoryOf(directory: string): string {
  return existsSync(join(directory, "package.json")) ? directory : repositoryOf(join(directory, ".."));
}

type Child = ReturnType<typeof startIn>;

/** One access record, as the data plane writes it (docs/node-interfaces.md). */
export type AccessRecord = Readonly<Record<string, string | number | undefined>>;

/** The answer of `testkit client http`, summed up. */
export interface HttpSummary {
  readonly requests: number;
  readonly ok: number;
  readonly statuses: Readonly<Record<string, number>>;
  readonly servers: Readonly<Record<string, number>>;
  readonly clients: Readonly<Record<string, number>>;
  readonly errors: Readonly<Record<string, number>>;
  readonly response_bytes: number;
}

/** A pod in the answer of `meltemi status`. */
export interface PodStatus {
  readonly name: string;
  readonly state: string;
}

interface Status {
  readonly nodes: readonly {
    readonly pods: readonly PodStatus[];
    readonly capture?: CaptureChoice;
  }[];
}

/** What `testkit capture` saw on an interface. */
export interface CaptureSummary {
  readonly packets: number;
  readonly drops: number;
  readonly tls_records: number;
  readonly marker_found: boolean;
}

/** A running mesh with the demo's application on it, and what a row may do to it. */
export class World {
  readonly topology = new Topology("d");
  readonly issuer = new Issuer(kitchen.issuer);
  readonly config = "/run/meltemi/demo/config";
  readonly state = "/run/meltemi/demo/state";
  readonly run = "/run/meltemi/demo/run";
  readonly #clients: LongRunning[] = [];
  readonly #externalDataPlanes: readonly string[];
  #standalone: Child | undefined;
  #capturedBy: CaptureChoice | undefined;

  /** @param externalDataPlanes nodes whose data plane the caller starts, when the mesh is up */
  constructor(externalDataPlanes: readonly string[] = []) {
    this.#externalDataPlanes = externalDataPlanes;
  }

  /** Makes nodes, pods, servers and manifests, and starts the mesh. */
  async up(progress: (step: string) => void): Promise<void> {
    progress("two nodes, ten pods and a waypoint, as network namespaces");
    await this.topology.up(["n1", "n2"]);
    for (const plan of manifests.pods) await this.topology.addPod(plan.name, plan.node, plan.host);
    for (const name of ["catalog-1", "catalog-2"])
      await this.#serve(name, ["http", "--listen", `[::]:${manifests.catalogPort}`, "--name", name]);
    await this.topology.addPod(kitchen.waypointName, "n1", 40);
    for (const name of ["kitchen-1", "kitchen-2"])
      await this.#serve(name, ["http", "--listen", `[::]:${kitchen.kitchenPort}`, "--name", name]);
    const oven = ["http", "--listen", `[::]:${kitchen.kitchenPort}`, "--name", "oven"];
    await this.#serve("oven", [...oven, "--fail-every", "2"]);
    await this.#serve("ledger", ["tcp", "--listen", `[::]:${manifests.ledgerPort}`]);

    progress("manifests");
    await mkdir(this.config, { recursive: true });
    await this.apply("nodes.yaml", manifests.nodes(this.topology));
    await this.apply("namespaces.yaml", manifests.namespaces(true));
    await this.apply("accounts.yaml", manifests.serviceAccounts());
    await this.apply("services.yaml", manifests.services());
    await this.apply("policy.yaml", manifests.catalogPolicy(manifests.catalogCallers));
    await this.apply("mtls.yaml", manifests.mtls("PERMISSIVE"));
    await this.apply("kitchen.yaml", kitchen.services());
    await this.apply("kitchen-gateway.yaml", kitchen.gateway(this.topology.pod(kitchen.waypointName)));
    await this.apply("kitchen-routes.yaml", kitchen.routes());
    await this.apply("kitchen-policy.yaml", kitchen.policy());
    await this.apply("kitchen-fault.yaml", kitchen.fault(100));
    await this.apply("kitchen-token.yaml", kitchen.tokens(this.issuer.jwks));
    for (const plan of manifests.pods) await this.applyPod(plan.name);

    progress("meltemi standalone: control plane, two agents, two data planes, a waypoint");
    await this.startMesh();
    if (this.#externalDataPlanes.length > 0) return;
    await this.allEnrolled();
    this.#capturedBy = await this.#captureChoice();
  }

  /** How the pods are captured: the same on every node. */
  get capturedBy(): CaptureChoice {
    return this.#capturedBy ?? { mode: "unknown", guard: "unknown", reason: "" };
  }

  async startMesh(): Promise<void> {
    const args = flags({
      config: this.config,
      stateDir: this.state,
      runDir: this.run,
      listen: `${hostIp}:15012`,
      logFormat: "json",
      // A demonstration waits for less than an operator would.
      rotationSettleMs: 1000,
    });
    const external = this.#externalDataPlanes.flatMap((node) => ["--external-data-plane", node]);
    this.#standalone = startIn(undefined, meltemi, ["standalone", ...args, ...external]);
    const log: Buffer[] = [];
    for (const stream of [this.#standalone.stdout, this.#standalone.stderr])
      stream.on("data", (chunk: Buffer) => log.push(chunk));
    this.#standalone.on("exit", (code) => {
      if (code !== 0 && code !== null)
        process.stderr.write(
          `meltemi standalone ended with ${code}:\n${Buffer.concat(log).toString().slice(-4000)}\n`,
        );
    });
    await Promise.resolve();
  }

  async #serve(pod: string, args: readonly string[]): Promise<void> {
    await this.#start(this.topology.pod(pod).netns, ["serve", ...args]).ready;
  }

  #start(netns: string | undefined, args: readonly string[]): LongRunning {
    const started = new LongRunning(netns, testkit, args);
    this.#clients.push(started);
    return started;
  }

  /** Replaces one manifest file as an editor does: written beside, renamed over. */
  async apply(file: string, text: string): Promise<void> {
    await writeFile(join(this.config, `.${file}.new`), text);
    await rename(join(this.config, `.${file}.new`), join(this.config, file));
  }

  async applyPod(name: string, changes: Parameters<typeof manifests.pod>[2] = {}): Promise<void> {
    const plan = manifests.pods.find((candidate) => candidate.name === name);
    if (!plan) throw new MeltemiError("not_found", `the demo has no pod ${name}`);
    await this.apply(`pod-${name}.yaml`, manifests.pod(plan, this.topology.pod(name), changes));
  }

  /** The CLI's answer as JSON. */
  async cli<T>(...args: string[]): Promise<T> {
    const result = await execa(meltemi, [...args, "--run-dir", this.run, "-o", "json"], { reject: false });
    if (result.failed) throw new MeltemiError("unavailable", `meltemi ${args.join(" ")}: ${result.stderr}`);
    return JSON.parse(result.stdout) as T;
  }

  /** Runs a client inside a pod and gives its JSON summary. */
  async client<T>(pod: string | LabPod, args: readonly string[]): Promise<T> {
    const netns = typeof pod === "string" ? this.topology.pod(pod).netns : pod.netns;
    const result = await execa("nsenter", [`--net=/run/netns/${netns}`, "--", testkit, "client", ...args], {
      reject: false,
    });
    const last = result.stdout.trim().split("\n").at(-1) ?? "";
    if (!last.startsWith("{"))
      throw new MeltemiError(
        "internal",
        `testkit client ${args.join(" ")}: ${result.stderr || result.stdout}`,
      );
    return JSON.parse(last) as T;
  }

  /** Starts a client that goes on until `stop`, which gives its summary. */
  continuous<T>(pod: string, args: readonly string[]): { stop: () => Promise<T> } {
    const client = this.#start(this.topology.pod(pod).netns, ["client", ...args]);
    return { stop: () => client.stop() as Promise<T> };
  }

  /** Captures on an interface of the sandbox until `stop`. */
  async capture(netInterface: string, marker: string): Promise<{ stop: () => Promise<CaptureSummary> }> {
    const capture = this.#start(undefined, ["capture", "--interface", netInterface, "--marker", marker]);
    await capture.ready;
    return { stop: () => capture.stop() as Promise<CaptureSummary> };
  }

  /** Waits until the agents say of every pod what its manifest asks for. */
  async allEnrolled(
    expected = manifests.pods.filter((plan) => plan.namespace === "shop").map((plan) => plan.name),
  ): Promise<void> {
    await eventually("the pods to be enrolled", async () => {
      const states = await this.podStates();
      const enrolled = [...states].filter(([, state]) => state === "enrolled").map(([name]) => name);
      return expected.length === enrolled.length && expected.every((name) => enrolled.includes(name))
        ? true
        : undefined;
    });
  }

  async podStates(): Promise<Map<string, string>> {
    return new Map((await this.#pods()).map(({ name, state }) => [name, state] as const));
  }

  async enrolledPods(): Promise<readonly PodStatus[]> {
    return (await this.#pods()).filter(({ state }) => state === "enrolled");
  }

  async #pods(): Promise<PodStatus[]> {
    const { nodes } = await this.cli<Status>("status");
    return nodes.flatMap((node) => node.pods);
  }

  /** How the nodes capture; known once the pods are enrolled. Differing answers are all named. */
  async #captureChoice(): Promise<CaptureChoice> {
    const { nodes } = await this.cli<Status>("status");
    const all = (name: keyof CaptureChoice): string =>
      [...new Set(nodes.flatMap(({ capture }) => capture?.[name] ?? []))].join(" and ");
    return { mode: all("mode"), guard: all("guard"), reason: all("reason") };
  }

  /** Waits until the agents say that a pod is in this state. */
  async podReaches(name: string, state: string): Promise<void> {
    await eventually(`${name} to be ${state}`, async () =>
      (await this.podStates()).get(name) === state ? true : undefined,
    );
  }

  /** Takes a pod out of the mesh, or back in, by its label, as a user would. */
  async setInMesh(name: string, inMesh: boolean): Promise<void> {
    await this.applyPod(name, inMesh ? {} : { labels: { "istio.io/dataplane-mode": "none" } });
    await this.podReaches(name, inMesh ? "enrolled" : "out");
  }

  /** Takes a pod out of the mesh and in again with a changed manifest. */
  async reenrol(name: string, changes: Parameters<typeof manifests.pod>[2]): Promise<void> {
    await this.applyPod(name, { ...changes, labels: { "istio.io/dataplane-mode": "none" } });
    await this.podReaches(name, "out");
    await this.applyPod(name, changes);
    await this.podReaches(name, "enrolled");
  }

  /** The mesh's processes: `control-plane`, and `node-NODE` and `proxy-NODE` for each node that answers. */
  async processes(): Promise<Map<string, number>> {
    const instance = JSON.parse(await readFile(join(this.run, "instance.json"), "utf8")) as {
      children: { name: string; pid: number }[];
    };
    const found = new Map(instance.children.map(({ name, pid }) => [name, pid] as const));
    for (const node of this.topology.nodes) {
      const file = await readFile(join(this.run, "nodes", node.name, "proxy.json"), "utf8").catch(() => "{}");
      const { pid = 0 } = JSON.parse(file) as { pid?: number };
      if (pid > 0) found.set(`proxy-${node.name}`, pid);
    }
    return found;
  }

  /** SIGKILLs processes by name, all at once, and gives the pids they had. */
  async kill(...names: readonly string[]): Promise<ReadonlyMap<string, number>> {
    const now = await this.processes();
    const killed = new Map<string, number>();
    for (const name of names) {
      const pid = now.get(name);
      if (pid === undefined)
        throw new MeltemiError("not_found", `no process ${name} in ${[...now.keys()].join(", ")}`);
      killed.set(name, pid);
    }
    for (const pid of killed.values()) process.kill(pid, "SIGKILL");
    return killed;
  }

  async signal(name: string, signal: "SIGSTOP" | "SIGCONT"): Promise<void> {
    const pid = (await this.processes()).get(name);
    if (pid === undefined) throw new MeltemiError("not_found", `no process ${name}`);
    process.kill(pid, signal);
  }

  /** A node's metrics, as Prometheus would scrape them. */
  async metrics(node: string): Promise<string> {
    const lab = this.topology.nodes.find((candidate) => candidate.name === node);
    const response = await fetch(`http://${lab?.ip ?? "unknown"}:15020/metrics`);
    return response.text();
  }

  /** All access records of a node so far. A line that is being written is not one yet. */
  async records(node: string): Promise<AccessRecord[]> {
    const text = await readFile(join(this.state, "nodes", node, "logs", "proxy.log"), "utf8").catch(() => "");
    return text
      .slice(0, text.lastIndexOf("\n") + 1)
      .split("\n")
      .filter((line) => line.startsWith("{"))
      .map((line) => JSON.parse(line) as AccessRecord)
      .filter((record) => record["scope"] === "access");
  }

  /** Ends everything this world started. The sandbox ends the rest. */
  async down(): Promise<void> {
    if (this.#standalone && this.#standalone.exitCode === null) {
      this.#standalone.kill("SIGTERM");
      await new Promise((resolve) => this.#standalone?.once("exit", resolve));
    }
    for (const client of this.#clients) client.kill();
  }
}
