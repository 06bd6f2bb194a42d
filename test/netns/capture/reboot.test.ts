/**
 * A node that reboots: its state directory stays, its processes, namespaces and run directory are gone, and its pods
 * are made anew (same names, same addresses, new namespaces) before the agent is up. What protects them then is the
 * CNI plugin, which decides from the agent's list: their first process does not start uncaptured. Without the plugin
 * they speak in the clear until the agent has found them, which this shows, too.
 */
import { rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { ControlPlane } from "../../../bench/capture/control-plane.js";
import { NodeAgent } from "../../../bench/capture/node-agent.js";
import { run } from "../../../demo/lab/command.js";
import { LongRunning } from "../../../demo/lab/long-running.js";
import { Topology, type LabPod } from "../../../demo/lab/topology.js";
import { eventually } from "../../helpers/eventually.js";
import { commandIn, root, testkit, type Captured } from "./lab/kit.js";
import { writeResults } from "./lab/results.js";
import { Traffic } from "./lab/traffic.js";
import { Plugin, PodSandbox } from "./reboot/sandboxes.js";

const directory = "/run/meltemi/reboot";
const port = 8080;
const patienceMs = 60_000;
const manifest = (name: string, node: string, ip: string, ip6: string, netns?: string): string => `---
apiVersion: v1
kind: Pod
metadata: { name: ${name}, namespace: shop, uid: uid-${name}${netns === undefined ? "" : `, annotations: { meltemi.io/netns: ${netns} }`} }
spec: { nodeName: ${node}, serviceAccountName: ${name}, containers: [{ name: c, image: x }] }
status: { podIP: ${ip}, podIPs: [{ ip: ${ip} }, { ip: "${ip6}" }], phase: Running }
`;
const mesh = `apiVersion: v1
kind: Namespace
metadata: { name: shop, labels: { istio.io/dataplane-mode: ambient } }
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default, namespace: shop }
spec: { mtls: { mode: STRICT } }
`;

interface Outcome {
  readonly event: string;
  readonly pods: number;
  readonly attempted: number;
  readonly ok: number;
  readonly plaintextBytes: number;
  readonly serviceAfterMs: number;
}

const topology = new Topology("rb");
const controlPlane = new ControlPlane(join(root, "bin/meltemi"), join(directory, "mesh"));
const sandbox = new PodSandbox(topology, "client", "n1", 10);
const socket = join(directory, "n1/run/cni.sock");
/** Servers, by the pods' namespaces. */
const servers = new Map<string, LongRunning>();
const outcomes: Outcome[] = [];
let server: LabPod;
let plugin: Plugin;
let rebooting: NodeAgent;
let other: NodeAgent;

const agentOf = (name: string, flags: readonly string[]): NodeAgent =>
  new NodeAgent({
    meltemi: join(root, "bin/meltemi"),
    proxy: join(root, "target/release/meltemi-proxy"),
    node: topology.nodes.find((node) => node.name === name)!,
    directory: join(directory, name),
    flags: ["--log-level", "info", ...flags],
    controlPlane,
  });

/** Serves as the kubelet would start it: once its sandbox is complete. */
const serveIn = async ({ netns }: LabPod): Promise<void> => {
  const [program = "", ...args] = commandIn(
    netns,
    [testkit, "serve", "http", "--listen", `[::]:${port}`, "--name", "reboot"],
    "root",
  );
  const started = new LongRunning(undefined, program, args);
  servers.set(netns, started);
  await started.ready;
};

const sends = ({ netns }: LabPod, to: LabPod, marker: string): Traffic[] =>
  [to.ip, `[${to.ip6}]`].map((ip) => new Traffic(netns, `http://${ip}:${port}/echo`, marker));

async function capture(marker: string): Promise<{ stop(): Promise<Captured> }> {
  const wire = topology.nodes[0]!.wire;
  const started = new LongRunning(undefined, testkit, ["capture", "--interface", wire, "--marker", marker]);
  await started.ready;
  return { stop: () => started.stop() as Promise<Captured> };
}

/** Its processes gone at once, and all that does not outlive a boot: namespaces, mounts and the run directory. */
async function reboot(): Promise<void> {
  await rebooting.kill();
  servers.get(topology.pod("client").netns)?.kill();
  await sandbox.remove();
  const runDirectory = join(directory, "n1/run");
  await run("umount", [join(runDirectory, "bpf")]);
  rmSync(runDirectory, { recursive: true });
}

beforeAll(async () => {
  await topology.up(["n1", "n2"]);
  server = await topology.addPod("server", "n2", 10);
  await serveIn(server);
  // Only its addresses: the reboot makes another of them.
  const { ip, ip6 } = (await sandbox.make()).pod;
  await sandbox.remove();
  other = agentOf("n2", []);
  rebooting = agentOf("n1", ["--cni-socket", socket]);
  await other.write("mesh.yaml", mesh);
  await other.write("server.yaml", manifest("server", "n2", server.ip, server.ip6, server.netns));
  await other.write("client.yaml", manifest("client", "n1", ip, ip6));
  await controlPlane.start(["n1", "n2"]);
  await Promise.all([other.start(), rebooting.start()]);
  plugin = new Plugin(topology.nodes[0]!, directory, {
    socket,
    list: join(directory, "n1/state/cni-list.json"),
  });
  await other.enrolled(1);
});
afterAll(async () => {
  for (const running of servers.values()) running.kill();
  await Promise.all([other.stop(), rebooting.stop()]);
  controlPlane.stop();
  await topology.down();
  rmSync(directory, { recursive: true, force: true });
});

/** Ends traffic and capture, and sums up what they saw. */
async function sumUp(
  event: string,
  traffic: readonly Traffic[],
  captured: { stop(): Promise<Captured> },
  serviceAfterMs: number,
): Promise<Outcome> {
  const ends = await Promise.all(traffic.map((one) => one.stop(0)));
  const { drops, marker_bytes: plaintextBytes } = await captured.stop();
  expect(drops, "frames that the capture missed").toBe(0);
  const sum = (field: "attempted" | "ok"): number => ends.reduce((total, end) => total + end[field], 0);
  return { event, pods: 1, attempted: sum("attempted"), ok: sum("ok"), plaintextBytes, serviceAfterMs };
}

test("with the plugin a pod made anew before the agent is up starts captured, and sends nothing readable", async () => {
  const first = await sandbox.make();
  expect(await plugin.add(first.attached)).toMatchObject({ exitCode: 0 });
  await serveIn(first.pod);
  const before = sends(first.pod, server, "b3fore-reboot-");
  await Promise.all(before.map((one) => one.successes(5, 0, patienceMs)));
  for (const one of before) one.kill("SIGKILL");

  const marker = "reb00t-with-";
  const captured = await capture(marker);
  const toThePod = sends(server, first.pod, marker);
  await reboot();
  const rebootedMs = Date.now();
  // As the kubelet does: a sandbox whose ADD fails is taken down, and another made.
  let refused = 0;
  const started = async (): Promise<LabPod | undefined> => {
    const { pod, attached } = await sandbox.make();
    const answer = await plugin.add(attached);
    if (answer.exitCode === 0) return pod;
    expect(answer.json, answer.stdout).toMatchObject({ code: 11 });
    refused += 1;
    await plugin.del(attached);
    await sandbox.remove();
    return undefined;
  };
  for (let attempt = 0; attempt < 5; attempt += 1) expect(await started()).toBeUndefined();
  const starting = rebooting.start();
  const again = await eventually("the pod to start", started, patienceMs);
  await starting;
  await serveIn(again);
  const fromThePod = sends(again, server, marker);
  await Promise.all(fromThePod.map((one) => one.successes(10, 0, patienceMs)));
  const serviceAfterMs = Date.now() - rebootedMs;
  await Promise.all(toThePod.map((one) => one.successes(10, Date.now(), patienceMs)));
  const outcome = await sumUp(
    "reboot; the pod made anew before the agent is up, with the CNI plugin",
    [...toThePod, ...fromThePod],
    captured,
    serviceAfterMs,
  );
  expect(refused).toBeGreaterThanOrEqual(5);
  expect(outcome.ok).toBeGreaterThan(20);
  expect(outcome.plaintextBytes, "bytes of the marker on the link").toBe(0);
  outcomes.push(outcome);
});

test("without the plugin it sends in the clear until the agent has captured it, and no longer", async () => {
  await reboot();
  rebooting = agentOf("n1", []);
  const marker = "reb00t-without-";
  const captured = await capture(marker);
  const rebootedMs = Date.now();
  const { pod } = await sandbox.make();
  await serveIn(pod);
  const traffic = sends(pod, server, marker);
  await Promise.all(traffic.map((one) => one.attempted(patienceMs)));
  await other.write("client.yaml", manifest("client", "n1", pod.ip, pod.ip6, pod.netns));
  await rebooting.start();
  await rebooting.enrolled(1);
  await Promise.all(traffic.map((one) => one.successes(10, Date.now(), patienceMs)));
  const outcome = await sumUp("the same without the CNI plugin", traffic, captured, Date.now() - rebootedMs);
  expect(outcome.plaintextBytes).toBeGreaterThan(0);
  outcomes.push(outcome);

  const after = "reb00t-after-";
  const capturedAfter = await capture(after);
  const trafficAfter = sends(pod, server, after);
  await Promise.all(trafficAfter.map((one) => one.successes(10, 0, patienceMs)));
  expect((await sumUp("", trafficAfter, capturedAfter, 0)).plaintextBytes).toBe(0);
});

test("every row has its outcome", () => {
  expect(outcomes).toHaveLength(2);
  writeResults("reboot", outcomes);
});
