import { afterEach, beforeEach, expect, test } from "vitest";
import { eventually } from "../../test/helpers/eventually.js";
import { KubeApiDouble } from "../../test/helpers/kube-api-double.js";
import { RecordingLogger } from "../../test/helpers/recording-logger.js";
import { systemClock } from "../platform/clock.js";
import { systemRandom } from "../platform/random.js";
import { StartupTaint, startupTaint } from "./startup-taint.js";

const nodes = "/api/v1/nodes";
const pods = "/api/v1/namespaces/meltemi-system/pods";
const quiet = { heard: () => undefined, listed: () => undefined, watchEnded: () => undefined };
const disk = { key: "node.kubernetes.io/disk-pressure", effect: "NoSchedule" };
const ours = { key: startupTaint, effect: "NoSchedule" };

let double: KubeApiDouble;
let patches: { readonly path: string; readonly body: unknown }[];
let end: () => Promise<void>;

beforeEach(async () => {
  patches = [];
  double = await KubeApiDouble.start(({ method, path, body }) => {
    if (method !== "PATCH") return undefined;
    patches.push({ path, body });
    const name = path.split("/").at(-1) ?? "";
    node(name, [disk]);
    return { status: 200, body: {} };
  });
  double.serve(nodes, pods);
  const stop = new AbortController();
  const running = new StartupTaint({
    api: double.api,
    namespace: "meltemi-system",
    agents: "app=agent",
    clock: systemClock,
    random: systemRandom,
    log: new RecordingLogger(),
    observe: () => quiet,
  }).run(stop.signal);
  end = async () => {
    stop.abort();
    await running;
  };
});
afterEach(async () => {
  await end();
  await double.close();
});

const node = (name: string, taints: readonly object[]): void =>
  double.put(nodes, { metadata: { name }, spec: { taints } });
const agent = (on: string, ready: "True" | "False", metadata: object = {}): void =>
  double.put(pods, {
    metadata: { namespace: "meltemi-system", name: `agent-${on}`, ...metadata },
    spec: { nodeName: on },
    status: { conditions: [{ type: "Ready", status: ready }] },
  });

test("the taint goes when the node's own agent is ready, and nothing else of the node changes", async () => {
  node("n1", [disk, ours]);
  node("n2", [ours]);
  agent("n1", "False");
  agent("n2", "True", { deletionTimestamp: "2026-01-01T00:00:00Z" });
  await eventually("both watches", () =>
    Promise.resolve(double.watchers(nodes) === 1 && double.watchers(pods) === 1),
  );
  expect(patches).toEqual([]);
  agent("n1", "True");
  await eventually("a patch", () => Promise.resolve(patches.length > 0));
  expect(patches).toEqual([
    {
      path: "/api/v1/nodes/n1",
      body: [
        { op: "test", path: "/spec/taints/1", value: ours },
        { op: "remove", path: "/spec/taints/1" },
      ],
    },
  ]);
});

test("a patch that came too late is tried again with the node as it is then", async () => {
  double.fail("/api/v1/nodes/n1", 422, 1);
  agent("n1", "True");
  node("n1", [ours]);
  await eventually("the taint gone", () => Promise.resolve(patches.length === 1));
});
