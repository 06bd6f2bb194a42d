import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { RecordingLogger } from "../../test/helpers/recording-logger.js";
import { scratchDirectory } from "../../test/helpers/scratch.js";
import type { SourceBatch } from "../domain/source-event.js";
import { systemClock } from "../platform/clock.js";
import { podSource } from "./node.js";

const pods = `
apiVersion: v1
kind: Namespace
metadata: { name: shop, labels: { istio.io/dataplane-mode: ambient } }
---
apiVersion: v1
kind: Pod
metadata: { name: cart, namespace: shop, annotations: { meltemi.io/netns: cart } }
spec: { nodeName: n1, containers: [{ name: c, image: x }] }
status: { podIP: 10.9.0.2 }
`;

/** What an agent hears first after a start. */
async function firstBatch(config: string, stateDir: string): Promise<SourceBatch> {
  const abort = new AbortController();
  let first: SourceBatch | undefined;
  await podSource({ config, stateDir }, systemClock, new RecordingLogger()).run((batch) => {
    first ??= batch;
    abort.abort();
  }, abort.signal);
  return first!;
}

test.each([
  ["broken YAML", pods.replace("status: {", "status: [")],
  ["a field that is refused", pods.replace("podIP: 10.9.0.2", "podIP: nowhere")],
])("pods stay in the mesh over a restart with %s", async (_name, broken) => {
  const [config, stateDir] = [join(scratchDirectory(), "config"), scratchDirectory()];
  mkdirSync(config);
  writeFileSync(join(config, "pods.yaml"), pods);
  const before = await firstBatch(config, stateDir);
  expect(before.events).toHaveLength(2);
  writeFileSync(join(config, "pods.yaml"), broken);
  const after = await firstBatch(config, stateDir);
  expect(after.events).toEqual(before.events);
  expect(after.problems).toHaveLength(1);
});
