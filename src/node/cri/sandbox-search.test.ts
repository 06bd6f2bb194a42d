import { expect, test } from "vitest";
import { eventually } from "../../../test/helpers/eventually.js";
import { RecordingLogger } from "../../../test/helpers/recording-logger.js";
import { SeededRandom } from "../../../test/helpers/seeded-random.js";
import { systemClock } from "../../platform/clock.js";
import type { Sandbox } from "../enrol/desired.js";
import { networkNamespace, type RuntimeSandbox } from "./runtime.js";
import { SandboxSearch } from "./sandbox-search.js";

const sandbox = (name: string, inode: number): RuntimeSandbox => ({
  id: `id-${name}`,
  key: `shop/${name}`,
  podUid: `uid-${name}`,
  netns: `/run/netns/cni-${inode}`,
  ips: ["10.0.0.1"],
});

/** A node: what its runtime has, and what its pods miss. */
class Node {
  running: RuntimeSandbox[] = [];
  away = false;
  questions = 0;
  hasUnplaced = false;
  placed: ReadonlyMap<string, Sandbox> = new Map();
  readonly #watchers = new Set<() => void>();

  readonly search = new SandboxSearch({
    sandboxes: () => {
      this.questions += 1;
      return this.away ? Promise.reject(new Error("away")) : Promise.resolve(this.running);
    },
    pods: {
      found: (sandboxes) => (this.placed = sandboxes),
      hasUnplacedPods: () => this.hasUnplaced,
      onChange: (watcher) => {
        this.#watchers.add(watcher);
        return () => this.#watchers.delete(watcher);
      },
    },
    inodeAt: (netns) => (netns.endsWith("-0") ? undefined : Number(netns.split("-").at(-1))),
    clock: systemClock,
    random: new SeededRandom(),
    log: new RecordingLogger(),
  });

  /** The search waits for a change, and asks nothing. */
  get watched(): boolean {
    return this.#watchers.size > 0;
  }

  misses(unplaced: boolean): void {
    this.hasUnplaced = unplaced;
    for (const watcher of [...this.#watchers]) watcher();
  }
}

test("at the start every sandbox is known before the pods are, also when the runtime comes late", async () => {
  const node = new Node();
  node.running = [sandbox("a", 11), sandbox("b", 12), sandbox("gone", 0)];
  node.away = true;
  const loading = node.search.load(new AbortController().signal);
  await eventually("a second question", () => Promise.resolve(node.questions >= 2));
  expect(node.placed.size).toBe(0);
  node.away = false;
  await loading;
  expect([...node.placed]).toEqual([
    ["shop/a", { podUid: "uid-a", netns: "/run/netns/cni-11", netnsInode: 11, ips: ["10.0.0.1"] }],
    ["shop/b", { podUid: "uid-b", netns: "/run/netns/cni-12", netnsInode: 12, ips: ["10.0.0.1"] }],
  ]);
});

test("the runtime is asked when a pod is missed, again until it is found, and otherwise left alone", async () => {
  const node = new Node();
  const stop = new AbortController();
  const running = node.search.run(stop.signal);
  node.misses(true);
  await eventually("a third question", () => Promise.resolve(node.questions >= 3));
  node.running = [sandbox("a", 11)];
  await eventually("the pod found", () => Promise.resolve(node.placed.has("shop/a")));
  node.misses(false);
  await eventually("the search at rest", () => Promise.resolve(node.watched));
  stop.abort();
  await running;
});

test("a sandbox's namespace is the one of its OCI specification", () => {
  const info = (namespaces: readonly object[]): string =>
    JSON.stringify({ pid: 7, runtimeSpec: { ociVersion: "1.1.0", linux: { namespaces } } });
  expect(
    networkNamespace(info([{ type: "pid" }, { type: "network", path: "/var/run/netns/cni-1" }]), "S"),
  ).toBe("/run/netns/cni-1");
  expect(networkNamespace(info([{ type: "pid" }]), "S")).toBeUndefined();
  expect(() => networkNamespace("{}", "/run/x.sock")).toThrow(/\/run\/x.sock does not say where/);
});
