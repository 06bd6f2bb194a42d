import { afterEach, beforeEach, expect, test } from "vitest";
import { eventually } from "../../test/helpers/eventually.js";
import { KubeApiDouble } from "../../test/helpers/kube-api-double.js";
import { RecordingLogger } from "../../test/helpers/recording-logger.js";
import { systemClock } from "../platform/clock.js";
import { systemRandom } from "../platform/random.js";
import { RootPublisher } from "./root-publisher.js";

const maps = "/api/v1/configmaps";
const quiet = { heard: () => undefined, listed: () => undefined, watchEnded: () => undefined };

let double: KubeApiDouble;
let roots: string;
let ends: (() => Promise<void>)[];

beforeEach(async () => {
  roots = "ROOT 1\n";
  ends = [];
  double = await KubeApiDouble.start();
  double.serve(maps);
});
afterEach(async () => {
  for (const end of ends) await end();
  await double.close();
});

function publisher(log = new RecordingLogger()): RootPublisher {
  const made = new RootPublisher({
    api: double.api,
    roots: () => roots,
    clock: systemClock,
    random: systemRandom,
    log,
    observe: () => quiet,
  });
  const stop = new AbortController();
  const running = made.run(stop.signal);
  ends.push(async () => {
    stop.abort();
    await running;
  });
  return made;
}

const published = (namespace: string, name = "meltemi-ca-root-cert"): unknown =>
  (double.get(maps, namespace, name)?.["data"] as Record<string, unknown> | undefined)?.["root-cert.pem"];
const writes = (): readonly string[] => double.requests.filter((one) => one.startsWith("PATCH"));

const everywhere = (...namespaces: readonly string[]): Promise<unknown> =>
  eventually("the roots everywhere", () =>
    Promise.resolve(
      namespaces.every((one) => published(one) === roots && published(one, "istio-ca-root-cert") === roots),
    ),
  );

test("the roots are in every namespace, written once each, also by several replicas", async () => {
  const replicas = [publisher(), publisher(), publisher()];
  for (const one of replicas) one.namespaces(["a", "b", "c"]);
  await everywhere("a", "b", "c");
  const before = writes().length;
  expect(before).toBeLessThanOrEqual(6 * replicas.length);
  for (const one of replicas) one.namespaces(["a", "b", "c", "d"]);
  await everywhere("d");
  roots = "ROOT 1\nROOT 2\n";
  for (const one of replicas) one.rootsChanged();
  await everywhere("a", "b", "c", "d");
});

test("what is right is not written again, and what was changed or removed comes back", async () => {
  const one = publisher();
  one.namespaces(["a"]);
  await everywhere("a");
  expect(writes()).toHaveLength(2);
  one.namespaces(["a"]);
  one.rootsChanged();
  double.disconnect();
  double.delete(maps, "a", "meltemi-ca-root-cert");
  await everywhere("a");
  expect(writes()).toHaveLength(3);
});

test("a namespace that is gone is forgotten", async () => {
  const one = publisher();
  one.namespaces(["a", "b"]);
  await everywhere("a", "b");
  one.namespaces(["a"]);
  double.delete(maps, "b", "meltemi-ca-root-cert");
  roots = "ROOT 2\n";
  one.rootsChanged();
  await everywhere("a");
  expect(published("b")).toBeUndefined();
});

test("who puts something else back again and again is answered ever more seldom", async () => {
  const one = publisher();
  one.namespaces(["a"]);
  await everywhere("a");
  const startedMs = systemClock.monotonic();
  for (let round = 0; round < 2; round++) {
    double.put(maps, {
      metadata: { namespace: "a", name: "meltemi-ca-root-cert" },
      data: { "root-cert.pem": `MINE ${round}` },
    });
    await everywhere("a");
  }
  // At least half a second before the first answer, and a whole one before the second.
  expect(systemClock.monotonic() - startedMs).toBeGreaterThan(1_400);
});

test("Istio's own is left to Istio, until it is gone", async () => {
  const log = new RecordingLogger();
  double.put(maps, {
    metadata: { namespace: "a", name: "istio-ca-root-cert" },
    data: { "root-cert.pem": "ISTIO" },
  });
  double.fail("/api/v1/namespaces/a/configmaps/istio-ca-root-cert", 409, 1);
  const one = publisher(log);
  one.namespaces(["a"]);
  await eventually("a word about it", () => Promise.resolve(log.messages.includes("root left to its owner")));
  double.put(maps, {
    metadata: { namespace: "a", name: "istio-ca-root-cert" },
    data: { "root-cert.pem": "ISTIO 2" },
  });
  await eventually("ours", () => Promise.resolve(published("a") === roots));
  expect(published("a", "istio-ca-root-cert")).toBe("ISTIO 2");
  double.delete(maps, "a", "istio-ca-root-cert");
  await everywhere("a");
});

test("a conflict over our own is tried again", async () => {
  double.fail("/api/v1/namespaces/a/configmaps/meltemi-ca-root-cert", 409, 1);
  publisher().namespaces(["a"]);
  await everywhere("a");
});
