/** `meltemi standalone` as a person runs it: two nodes, real agents and data planes, killed and ended. */
import { spawn, type ChildProcess } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { execa } from "execa";
import { afterAll, beforeAll, expect, test } from "vitest";
import { runIn, startIn } from "../../../demo/lab/command.js";
import { Topology } from "../../../demo/lab/topology.js";
import { instanceShape } from "../../../src/cli/run-directory.js";
import { eventually } from "../../helpers/eventually.js";

const root = fileURLToPath(new URL("../../../", import.meta.url));
const meltemi = join(root, "bin/meltemi");
const testkit = join(root, "target/release/meltemi-testkit");
const directory = "/run/meltemi/standalone-test";
const [config, state, run] = ["config", "state", "run"].map((name) => join(directory, name)) as [
  string,
  string,
  string,
];
const patienceMs = 30_000;

const topology = new Topology("s");
const servers: ChildProcess[] = [];
let standalone: ChildProcess;
let output = "";

const manifest = (name: string, netns: string, node: string, ip: string): string => `
apiVersion: v1
kind: Pod
metadata: { name: ${name}, namespace: shop, labels: { app: ${name} }, annotations: { meltemi.io/netns: ${netns} } }
spec: { nodeName: ${node}, serviceAccountName: ${name}, containers: [{ name: c, image: x }] }
status: { podIP: ${ip}, phase: Running }
`;

function writePod(name: string): void {
  const { netns, node, ip } = topology.pod(name);
  writeFileSync(join(config, `${name}.yaml`), manifest(name, netns, node.name, ip));
}

function start(): void {
  const args = [
    "standalone",
    "--config",
    config,
    "--state-dir",
    state,
    "--run-dir",
    run,
    "--listen",
    "none",
    "--log-format",
    "json",
  ];
  standalone = spawn(process.execPath, [meltemi, ...args, "--rotation-settle-ms", "200"]);
  for (const stream of [standalone.stdout, standalone.stderr])
    stream?.on("data", (chunk: Buffer) => (output += chunk.toString()));
}

function end(signal: NodeJS.Signals): Promise<number | null> {
  return new Promise((resolve) => {
    standalone.once("exit", resolve);
    standalone.kill(signal);
  });
}

async function cli<T>(...args: readonly string[]): Promise<T> {
  const { stdout } = await execa(process.execPath, [meltemi, ...args, "--run-dir", run, "-o", "json"]);
  return JSON.parse(stdout) as T;
}

interface Status {
  readonly nodes: readonly {
    readonly node: string;
    readonly pods: readonly { readonly name: string; readonly state: string }[];
    readonly control_plane: { readonly connected: boolean };
    readonly data_plane: { readonly pid: number; readonly ready: boolean };
  }[];
}

/** Waits until exactly these nodes are ready and connected, with their pods enrolled; gives their data planes' numbers. */
const ready = (...names: readonly string[]): Promise<ReadonlyMap<string, number>> =>
  eventually(
    `nodes ${names.join(", ")}\n${output.slice(-2_000)}`,
    async () => {
      const { nodes } = await cli<Status>("status").catch(() => ({ nodes: [] }));
      const good = nodes.filter(
        ({ pods, control_plane, data_plane }) =>
          data_plane.ready &&
          control_plane.connected &&
          pods.length > 0 &&
          pods.every((one) => one.state === "enrolled"),
      );
      const found = new Map(good.map(({ node, data_plane }) => [node, data_plane.pid]));
      return nodes.length === names.length && names.every((name) => found.has(name)) && found;
    },
    patienceMs,
  );

async function request(from: string, url: string): Promise<{ ok: number; requests: number }> {
  const args = ["client", "http", "--url", url, "--requests", "1"];
  const { stdout } = await execa(
    "nsenter",
    [`--net=/run/netns/${topology.pod(from).netns}`, "--", testkit, ...args],
    { reject: false },
  );
  return JSON.parse(stdout.trim().split("\n").at(-1) ?? "{}") as { ok: number; requests: number };
}

const works = (): Promise<boolean> =>
  eventually(
    "a request over the mesh",
    async () => (await request("front", "http://10.96.1.1:80/")).ok === 1,
    patienceMs,
  );

const children = (): Map<string, number> => {
  const { children: all } = instanceShape.parse(JSON.parse(readFileSync(join(run, "instance.json"), "utf8")));
  return new Map(all.map(({ name, pid }) => [name, pid]));
};

const rulesIn = (pod: string): Promise<string> => runIn(topology.pod(pod).netns, "nft", ["list", "ruleset"]);

/** Empty for a process that has ended, also where nobody has taken note yet. */
function commandOf(pid: number | string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
  } catch {
    return "";
  }
}

/** Processes of this mesh: only the sandbox's own are seen. */
const meshProcesses = (): string[] =>
  readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(commandOf)
    .filter((line) => line.includes(directory));

beforeAll(async () => {
  mkdirSync(config, { recursive: true });
  await topology.up(["n1", "n2"]);
  await topology.addPod("cart", "n1", 10);
  await topology.addPod("front", "n2", 10);
  servers.push(
    startIn(topology.pod("cart").netns, testkit, [
      "serve",
      "http",
      "--listen",
      "0.0.0.0:8080",
      "--name",
      "cart",
    ]),
  );
  const nodes = topology.nodes.map(
    ({ name, netns }) =>
      `apiVersion: v1\nkind: Node\nmetadata: { name: ${name}, annotations: { meltemi.io/netns: ${netns} } }\n`,
  );
  const rest = `
apiVersion: v1
kind: Namespace
metadata: { name: shop, labels: { istio.io/dataplane-mode: ambient } }
---
apiVersion: v1
kind: Service
metadata: { name: cart, namespace: shop }
spec: { clusterIP: 10.96.1.1, selector: { app: cart }, ports: [{ port: 80, targetPort: 8080 }] }
`;
  writeFileSync(join(config, "mesh.yaml"), [...nodes, rest].join("---\n"));
  writePod("cart");
  writePod("front");
  start();
});

afterAll(async () => {
  if (standalone.exitCode === null && standalone.signalCode === null) await end("SIGTERM");
  for (const server of servers) server.kill("SIGKILL");
  await topology.down();
  rmSync(directory, { recursive: true, force: true });
});

test("one agent and one data plane per node, and traffic between them", async () => {
  await ready("n1", "n2");
  await works();
  expect([...children().keys()].sort()).toEqual(["control-plane", "node-n1", "node-n2"]);
  const certificates = await cli<{ node: string; identity: string; state: string }[]>("certificates");
  expect(certificates.map(({ node, identity, state: now }) => `${node} ${identity} ${now}`).sort()).toEqual([
    "n1 spiffe://cluster.local/ns/shop/sa/cart valid",
    "n2 spiffe://cluster.local/ns/shop/sa/front valid",
  ]);
});

test("a root rotation renews every certificate, and ends with one new root", async () => {
  interface Certificate {
    readonly serial: string;
    readonly roots: readonly string[];
  }
  const before = await cli<Certificate[]>("certificates");
  await cli("ca", "rotate", "root");
  const serial = await eventually(
    "the rotation to end",
    async () => {
      const ca = await cli<{ phase: string; roots: { serial: string }[] }>("ca", "status");
      return ca.phase === "stable" && ca.roots[0]?.serial;
    },
    patienceMs,
  );
  const after = await eventually(
    "every data plane to trust the new root alone",
    async () => {
      const now = await cli<Certificate[]>("certificates");
      return now.every(({ roots }) => roots.length === 1 && roots[0] === serial) && now;
    },
    patienceMs,
  );
  for (const one of after) expect(before.map((old) => old.serial)).not.toContain(one.serial);
  await works();
});

test("agents and control plane killed: restarted, over the same data planes", async () => {
  const dataPlanes = await ready("n1", "n2");
  const before = children();
  for (const pid of before.values()) process.kill(pid, "SIGKILL");
  expect((await request("front", "http://10.96.1.1:80/")).ok, "while all of them are dead").toBe(1);
  await eventually(
    "new processes",
    () => [...children()].every(([name, pid]) => before.get(name) !== pid),
    patienceMs,
  );
  expect(await ready("n1", "n2")).toEqual(dataPlanes);
  await works();
});

test("standalone killed: traffic goes on, and the next one takes everything over", async () => {
  const dataPlanes = await ready("n1", "n2");
  const before = children();
  await end("SIGKILL");
  expect((await request("front", "http://10.96.1.1:80/")).ok).toBe(1);
  start();
  await eventually(
    "new processes",
    () => [...children()].length === 3 && [...children()].every(([name, pid]) => before.get(name) !== pid),
    patienceMs,
  );
  expect(await ready("n1", "n2")).toEqual(dataPlanes);
  for (const [name, pid] of before) expect(commandOf(pid), name).toBe("");
  await works();
});

test("a second standalone on the same run directory is refused", async () => {
  const args = ["standalone", "--config", config, "--state-dir", state, "--run-dir", run];
  const second = await execa(process.execPath, [meltemi, ...args], { reject: false });
  expect([second.exitCode, second.stderr]).toEqual([1, expect.stringContaining(`already runs in ${run}`)]);
});

test("a node whose last pod goes is removed with every trace, and comes back with a pod", async () => {
  rmSync(join(config, "front.yaml"));
  await ready("n1");
  await eventually(
    "the node's directory to go",
    () => !readdirSync(join(run, "nodes")).includes("n2"),
    patienceMs,
  );
  expect(await rulesIn("front")).toBe("");
  expect(meshProcesses().filter((line) => line.includes("nodes/n2"))).toEqual([]);
  writePod("front");
  await ready("n1", "n2");
  await works();
});

test("a node that goes while standalone is dead is removed by the next one", async () => {
  await end("SIGKILL");
  rmSync(join(config, "front.yaml"));
  start();
  await ready("n1");
  expect(await rulesIn("front")).toBe("");
  expect(meshProcesses().filter((line) => line.includes("nodes/n2"))).toEqual([]);
});

test("ended in order, nothing is left but the state", async () => {
  expect(await end("SIGTERM")).toBe(0);
  expect(meshProcesses()).toEqual([]);
  expect(await rulesIn("cart")).toBe("");
  expect(readdirSync(directory).sort()).toEqual(["config", "state"]);
});
