/** `meltemi standalone` as a person runs it: two nodes, real agents and data planes, killed and ended. */
import { readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { execa } from "execa";
import { afterAll, beforeAll, expect, test } from "vitest";
import { runIn } from "../../../demo/lab/command.js";
import { eventually } from "../../helpers/eventually.js";
import { commandOf, meltemi, Mesh } from "./mesh.js";

const directory = "/run/meltemi/standalone-test";
const patienceMs = 30_000;
const mesh = new Mesh("s", directory);
const { config, state, run } = mesh;

const rulesIn = (pod: string): Promise<string> =>
  runIn(mesh.topology.pod(pod).netns, "nft", ["list", "ruleset"]);

/** Processes of this mesh: only the sandbox's own are seen. */
const meshProcesses = (): string[] =>
  readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(commandOf)
    .filter((line) => line.includes(directory));

beforeAll(async () => {
  await mesh.up();
  mesh.start();
});

afterAll(() => mesh.down());

test("one agent and one data plane per node, and traffic between them", async () => {
  await mesh.ready("n1", "n2");
  await mesh.works();
  expect([...mesh.children().keys()].sort()).toEqual(["control-plane", "node-n1", "node-n2"]);
  const certificates = await mesh.cli<{ node: string; identity: string; state: string }[]>("certificates");
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
  const before = await mesh.cli<Certificate[]>("certificates");
  await mesh.cli("ca", "rotate", "root");
  const serial = await eventually(
    "the rotation to end",
    async () => {
      const ca = await mesh.cli<{ phase: string; roots: { serial: string }[] }>("ca", "status");
      return ca.phase === "stable" && ca.roots[0]?.serial;
    },
    patienceMs,
  );
  const after = await eventually(
    "every data plane to trust the new root alone",
    async () => {
      const now = await mesh.cli<Certificate[]>("certificates");
      return now.every(({ roots }) => roots.length === 1 && roots[0] === serial) && now;
    },
    patienceMs,
  );
  for (const one of after) expect(before.map((old) => old.serial)).not.toContain(one.serial);
  await mesh.works();
});

test("agents and control plane killed: restarted, over the same data planes", async () => {
  const dataPlanes = await mesh.ready("n1", "n2");
  const before = mesh.children();
  for (const pid of before.values()) process.kill(pid, "SIGKILL");
  expect((await mesh.request("front")).ok, "while all of them are dead").toBe(1);
  await eventually(
    "new processes",
    () => [...mesh.children()].every(([name, pid]) => before.get(name) !== pid),
    patienceMs,
  );
  expect(await mesh.ready("n1", "n2")).toEqual(dataPlanes);
  await mesh.works();
});

test("standalone killed: traffic goes on, and the next one takes everything over", async () => {
  const dataPlanes = await mesh.ready("n1", "n2");
  const before = mesh.children();
  await mesh.end("SIGKILL");
  expect((await mesh.request("front")).ok).toBe(1);
  mesh.start();
  await eventually(
    "new processes",
    () =>
      [...mesh.children()].length === 3 &&
      [...mesh.children()].every(([name, pid]) => before.get(name) !== pid),
    patienceMs,
  );
  expect(await mesh.ready("n1", "n2")).toEqual(dataPlanes);
  for (const [name, pid] of before) expect(commandOf(pid), name).toBe("");
  await mesh.works();
});

test("a second standalone on the same run directory is refused", async () => {
  const args = ["standalone", "--config", config, "--state-dir", state, "--run-dir", run];
  const second = await execa(process.execPath, [meltemi, ...args], { reject: false });
  expect([second.exitCode, second.stderr]).toEqual([1, expect.stringContaining(`already runs in ${run}`)]);
});

test("a node whose last pod goes is removed with every trace, and comes back with a pod", async () => {
  rmSync(join(config, "front.yaml"));
  await mesh.ready("n1");
  await eventually(
    "the node's directory to go",
    () => !readdirSync(join(run, "nodes")).includes("n2"),
    patienceMs,
  );
  expect(await rulesIn("front")).toBe("");
  expect(meshProcesses().filter((line) => line.includes("nodes/n2"))).toEqual([]);
  mesh.writePod("front");
  await mesh.ready("n1", "n2");
  await mesh.works();
});

test("a node that goes while standalone is dead is removed by the next one", async () => {
  await mesh.end("SIGKILL");
  rmSync(join(config, "front.yaml"));
  mesh.start();
  await mesh.ready("n1");
  expect(await rulesIn("front")).toBe("");
  expect(meshProcesses().filter((line) => line.includes("nodes/n2"))).toEqual([]);
});

test("ended in order, nothing is left but the state", async () => {
  expect(await mesh.end("SIGTERM")).toBe(0);
  expect(meshProcesses()).toEqual([]);
  expect(await rulesIn("cart")).toBe("");
  expect(readdirSync(directory).sort()).toEqual(["config", "state"]);
});
