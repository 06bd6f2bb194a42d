/** An agent with fifty pods: what it costs while nothing happens. */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { spawn, type ChildProcess } from "node:child_process";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { Topology } from "../../../demo/lab/topology.js";
import { callUnixJson } from "../../../src/platform/unix-http-client.js";
import { eventually } from "../../helpers/eventually.js";
import { agentCommand, agentEnvironment } from "./agent-process.js";

const directory = "/run/meltemi/many-pods";
const config = join(directory, "config");
const run = join(directory, "run");
const count = 50;
const idleCores = 0.05;
/** Two rounds of looking at every pod's pairing. */
const windowMs = 10_000;
const topology = new Topology("t");
let agent: ChildProcess;

interface Status {
  readonly pods: readonly { readonly state: string }[];
}

beforeAll(async () => {
  mkdirSync(config, { recursive: true });
  await topology.up(["n1"]);
  const documents = [
    "apiVersion: v1\nkind: Namespace\nmetadata: { name: shop, labels: { istio.io/dataplane-mode: ambient } }\n",
  ];
  for (let index = 0; index < count; index += 1) {
    const { name, ip, netns } = await topology.addPod(`p${index}`, "n1", 10 + index);
    documents.push(`apiVersion: v1
kind: Pod
metadata: { name: ${name}, namespace: shop, annotations: { meltemi.io/netns: ${netns} } }
spec: { nodeName: n1, serviceAccountName: ${name}, containers: [{ name: c, image: x }] }
status: { podIP: ${ip}, phase: Running }
`);
  }
  writeFileSync(join(config, "mesh.yaml"), documents.join("---\n"));
  const [program, args] = agentCommand(directory, config, run);
  agent = spawn(program, args, { stdio: "ignore", env: agentEnvironment });
});

afterAll(async () => {
  const ended = new Promise((resolve) => agent.once("exit", resolve));
  agent.kill("SIGTERM");
  await ended;
  await topology.down();
  rmSync(directory, { recursive: true, force: true });
});

/** Fields 14 to 17 of /proc/PID/stat (user and system time, its own and its ended children's), in ticks of 10 ms. */
function cpuTicks(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return [11, 12, 13, 14].reduce((sum, index) => sum + Number(fields[index]), 0);
}

const residentMb = (pid: number): number =>
  Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]) / 1024;

it("keeps under 90 MB, and a few hundredths of a core while nothing happens", async () => {
  const pid = agent.pid ?? 0;
  await eventually(
    "all pods to be enrolled",
    async () => {
      const socketPath = join(run, "node-admin.sock");
      const { pods } = (await callUnixJson({ socketPath, path: "/status" }).catch(() => ({
        pods: [],
      }))) as Status;
      return pods.length === count && pods.every(({ state }) => state === "enrolled");
    },
    60_000,
  );
  // Enrolling has its echoes (the kernel tells of our own rules): of three windows the quietest counts.
  let cores = Infinity;
  for (let window = 0; window < 3 && cores > idleCores; window += 1) {
    const before = cpuTicks(pid);
    const fromMs = performance.now();
    await new Promise((resolve) => setTimeout(resolve, windowMs));
    cores = Math.min(cores, (cpuTicks(pid) - before) / 100 / ((performance.now() - fromMs) / 1000));
  }
  const resident = residentMb(pid);
  process.stderr.write(
    `agent with ${count} pods: ${resident.toFixed(0)} MB resident, ${cores.toFixed(3)} cores idle\n`,
  );
  expect(resident).toBeLessThan(90);
  expect(cores).toBeLessThan(idleCores);
});
