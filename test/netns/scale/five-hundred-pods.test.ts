/**
 * Five hundred pods that ask for the mesh at the same time, on one node. How long it takes is reported, not judged; what
 * they send from the moment that they may is captured, and none of it is readable.
 */
import { rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ControlPlane } from "../../../bench/capture/control-plane.js";
import { Crowd, type CrowdPod } from "../../../bench/capture/crowd.js";
import { enrolCrowd } from "../../../bench/capture/many-pods.js";
import { descriptors, NodeAgent } from "../../../bench/capture/node-agent.js";
import { LongRunning } from "../../../demo/lab/long-running.js";
import { Topology, type LabNode } from "../../../demo/lab/topology.js";
import { testkit, type Captured } from "../capture/lab/kit.js";
import { writeResults } from "../capture/lab/results.js";
import { Plugin } from "../capture/reboot/sandboxes.js";
import { dump } from "../node/probes.js";
import { settledDump } from "../settled-dump.js";
import { atOnce, send, type Sent } from "./senders.js";

const root = fileURLToPath(new URL("../../../", import.meta.url));
const directory = "/run/meltemi/scale";
const count = 500;
const port = 8080;
/** For how long a pod tries: the machine may be busy with other things. */
const sendingSeconds = 180;
/** The pod outside of the mesh is there for the node's sake: a control plane knows nodes by their pods. */
const mesh = `apiVersion: v1
kind: Pod
metadata: { name: known, namespace: plain }
spec: { nodeName: n1, containers: [{ name: c, image: x }] }
---
apiVersion: v1
kind: Namespace
metadata: { name: shop, labels: { istio.io/dataplane-mode: ambient } }
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default, namespace: shop }
spec: { mtls: { mode: STRICT } }
`;

describe("five hundred pods at once", () => {
  const topology = new Topology("q");
  const controlPlane = new ControlPlane(join(root, "bin/meltemi"), join(directory, "mesh"));
  const socket = join(directory, "node/run/cni.sock");
  let node: LabNode;
  let crowd: Crowd;
  let agent: NodeAgent;
  let freshDescriptors: number;
  let untouched: string;

  /** Of the first, one in the middle and the last. */
  const sample = (): readonly string[] =>
    [0, count / 2, count - 1].map((index) => crowd.pods[index]?.netns ?? "none");

  beforeAll(async () => {
    await topology.up(["n1"]);
    node = topology.nodes[0]!;
    crowd = new Crowd(node, "q", count);
    const fromMs = performance.now();
    await crowd.up();
    process.stderr.write(
      `${count} namespaces made in ${((performance.now() - fromMs) / 1000).toFixed(1)} s\n`,
    );
    untouched = await settledDump(sample()[1]!);
    agent = new NodeAgent({
      meltemi: join(root, "bin/meltemi"),
      proxy: join(root, "target/release/meltemi-proxy"),
      node,
      directory: join(directory, "node"),
      flags: ["--cni-socket", socket],
      controlPlane,
    });
    await agent.write("mesh.yaml", mesh);
    await controlPlane.start([node.name]);
    await agent.start();
    await agent.emptied();
    freshDescriptors = descriptors(agent.pid);
  });
  afterAll(async () => {
    await agent.stop();
    controlPlane.stop();
    await crowd.down();
    await topology.down();
    rmSync(directory, { recursive: true, force: true });
  });

  it("are all enrolled", async () => {
    const values = await enrolCrowd(agent, crowd, { restSeconds: 5, settleSeconds: 1 });
    process.stderr.write(`${JSON.stringify(values)}\n`);
    for (const netns of sample()) expect(await dump(netns), netns).not.toBe(untouched);
    // The namespace, and what tells of its changes: a leak of one more would show.
    expect(values["many_fds_per_pod"]).toBeLessThanOrEqual(5);
    expect(agent.log()).not.toMatch(/"level":"error"/);
  });

  it("leave nothing when they go", async () => {
    await agent.write("pods.yaml", "");
    await agent.emptied();
    expect(descriptors(agent.pid)).toBeLessThanOrEqual(freshDescriptors + 10);
    expect(await dump(sample()[1]!)).toBe(untouched);
  });

  /** All that the first pod is sent, seen at its link's end in the node's namespace. */
  async function whileCapturing<T>(marker: string, work: () => Promise<T>): Promise<[T, Captured]> {
    const args = ["capture", "--interface", crowd.pods[0]!.netns, "--marker", marker];
    const capture = new LongRunning(node.netns, testkit, args);
    await capture.ready;
    const result = await work();
    const captured = (await capture.stop()) as Captured;
    expect(captured.drops, "frames that the capture missed").toBe(0);
    return [result, captured];
  }

  const sum = (all: readonly Sent[], field: keyof Sent): number =>
    all.reduce((total, one) => total + one[field], 0);

  it("come back by the CNI plugin, each sending from the moment it may, and nothing of it is readable", async () => {
    await agent.write("pods.yaml", crowd.manifests(false));
    const plugin = new Plugin(node, directory, { socket, list: join(directory, "node/state/cni-list.json") });
    const [first, ...others] = crowd.pods as [CrowdPod, ...CrowdPod[]];
    const add = async ({ name, netns, ip }: CrowdPod): Promise<void> => {
      const answer = await plugin.add({ containerId: netns, name, netns, ip });
      expect(answer, name).toMatchObject({ exitCode: 0 });
    };
    await add(first);
    const server = new LongRunning(first.netns, testkit, ["serve", "http", "--listen", `0.0.0.0:${port}`]);
    await server.ready;
    const to = { ip: first.ip, port };
    const fromMs = Date.now();
    const sending: Promise<Sent>[] = [];
    const [sent, captured] = await whileCapturing("cr0wd-", async () => {
      await atOnce(16, others, async (pod) => {
        await add(pod);
        const sent = send(pod.netns, to, "cr0wd-".repeat(20), sendingSeconds);
        sending.push(sent);
        // Awaited below, when all are added: one that fails before is not a rejection that nobody handles.
        sent.catch(() => undefined);
      });
      return Promise.all(sending);
    });
    const serviceAfterMs = Date.now() - fromMs;
    expect(sum(sent, "served")).toBe(others.length);
    expect(captured.marker_bytes, "bytes of the marker at the server's link").toBe(0);
    await agent.enrolled(count);

    expect(await agent.stop()).toBe(0);
    expect(await dump(sample()[1]!)).toBe(untouched);
    const [inTheClear, readable] = await whileCapturing("cl3ar-", () =>
      atOnce(8, others.slice(0, 20), ({ netns }) => send(netns, to, "cl3ar-".repeat(20), sendingSeconds)),
    );
    server.kill();
    expect(sum(inTheClear, "served")).toBe(20);
    expect(readable.marker_bytes).toBeGreaterThan(20 * "cl3ar-".length);
    expect(() => statSync(socket)).toThrow("ENOENT");
    writeResults("crowd", [
      {
        event: "all enrolled at once by the CNI plugin, each sending from the moment its ADD has returned",
        pods: others.length,
        attempted: sum(sent, "attempted"),
        ok: sum(sent, "served"),
        plaintextBytes: captured.marker_bytes,
        serviceAfterMs,
      },
      {
        event: "the same with the mesh off",
        pods: inTheClear.length,
        attempted: sum(inTheClear, "attempted"),
        ok: sum(inTheClear, "served"),
        plaintextBytes: readable.marker_bytes,
      },
    ]);
  }, 900_000);
});
