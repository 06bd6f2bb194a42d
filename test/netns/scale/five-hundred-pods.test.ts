/** Five hundred pods that ask for the mesh at the same time, on one node. How long it takes is reported, not judged. */
import { rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Crowd } from "../../../bench/capture/crowd.js";
import { enrolCrowd } from "../../../bench/capture/many-pods.js";
import { descriptors, NodeAgent } from "../../../bench/capture/node-agent.js";
import { Topology } from "../../../demo/lab/topology.js";
import { dump } from "../node/probes.js";
import { settledDump } from "../settled-dump.js";

const root = fileURLToPath(new URL("../../../", import.meta.url));
const directory = "/run/meltemi/scale";
const count = 500;

describe("five hundred pods at once", () => {
  const topology = new Topology("q");
  let crowd: Crowd;
  let agent: NodeAgent;
  let freshDescriptors: number;
  let untouched: string;

  /** Of the first, one in the middle and the last. */
  const sample = (): readonly string[] =>
    [0, count / 2, count - 1].map((index) => crowd.pods[index]?.netns ?? "none");

  beforeAll(async () => {
    await topology.up(["n1"]);
    const [node] = topology.nodes;
    crowd = new Crowd(node!, "q", count);
    const fromMs = performance.now();
    await crowd.up();
    process.stderr.write(
      `${count} namespaces made in ${((performance.now() - fromMs) / 1000).toFixed(1)} s\n`,
    );
    untouched = await settledDump(sample()[1]!);
    agent = new NodeAgent({
      meltemi: join(root, "bin/meltemi"),
      proxy: join(root, "target/release/meltemi-proxy"),
      node: node!,
      directory,
    });
    await agent.start();
    await agent.emptied();
    freshDescriptors = descriptors(agent.pid);
  });
  afterAll(async () => {
    await agent.stop();
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

  it("come back, and go with the agent", async () => {
    await agent.write("pods.yaml", crowd.manifests());
    await agent.enrolled(count);
    expect(await agent.stop()).toBe(0);
    expect(await dump(sample()[1]!)).toBe(untouched);
  });
});
