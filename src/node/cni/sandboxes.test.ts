import { expect, test } from "vitest";
import { RecordingLogger } from "../../../test/helpers/recording-logger.js";
import type { Sandbox } from "../enrol/desired.js";
import type { Attachment } from "./requests.js";
import { Sandboxes } from "./sandboxes.js";

const attachment = (containerId: string, fields: Partial<Attachment> = {}): Attachment => ({
  containerId,
  interface: "eth0",
  network: "net",
  key: "shop/cart",
  podUid: "u1",
  netns: `/run/netns/${containerId}`,
  netnsInode: 7,
  ips: ["10.0.0.2"],
  ...fields,
});

/** A node: what is placed, which namespaces are there, and the file between two agents. */
class Node {
  readonly placed = new Map<string, Sandbox>();
  readonly gone = new Set<string>();
  readonly log = new RecordingLogger();
  file: string | undefined;
  writes = 0;
  full = false;

  agent(): Sandboxes {
    this.placed.clear();
    return new Sandboxes({
      file: {
        read: () => Promise.resolve(this.file),
        write: (text) => {
          this.writes += 1;
          if (this.full) return Promise.reject(new Error("no space left"));
          this.file = text;
          return Promise.resolve();
        },
        remove: () => {
          this.file = undefined;
          return Promise.resolve();
        },
      },
      placement: {
        place: (key, sandbox) => {
          if (sandbox === undefined) this.placed.delete(key);
          else this.placed.set(key, sandbox);
        },
      },
      exists: (netns) => !this.gone.has(netns),
      log: this.log,
    });
  }

  get netns(): string | undefined {
    return this.placed.get("shop/cart")?.netns;
  }
}

test("a pod is in its latest container, whichever ends first", async () => {
  const node = new Node();
  const sandboxes = node.agent();
  await sandboxes.add(attachment("a"));
  await sandboxes.add(attachment("b"));
  expect(node.netns).toBe("/run/netns/b");
  await sandboxes.remove(attachment("a"));
  expect(node.netns).toBe("/run/netns/b");
  await sandboxes.add(attachment("c"));
  await sandboxes.remove(attachment("c"));
  expect(node.netns).toBe("/run/netns/b");
  expect(await sandboxes.remove(attachment("c"))).toBeUndefined();
  await sandboxes.remove(attachment("b"));
  expect([node.netns, node.file]).toEqual([undefined, undefined]);
});

test("a pod has the addresses of all its interfaces, each once", async () => {
  const node = new Node();
  const sandboxes = node.agent();
  await sandboxes.add(attachment("old", { ips: ["10.0.0.9"] }));
  await sandboxes.add(attachment("a"));
  await sandboxes.add(
    attachment("a", { interface: "net1", network: "second", ips: ["fd00::2", "10.0.0.2"] }),
  );
  expect(node.placed.get("shop/cart")?.ips).toEqual(["10.0.0.2", "fd00::2"]);
  await sandboxes.remove(attachment("a", { interface: "net1", network: "second" }));
  expect(node.placed.get("shop/cart")?.ips).toEqual(["10.0.0.2"]);
});

test("the next agent knows them, but for those that are gone", async () => {
  const node = new Node();
  const first = node.agent();
  await first.add(attachment("a"));
  await first.add(attachment("x", { key: "shop/other" }));
  node.gone.add("/run/netns/x");
  const next = node.agent();
  await next.load();
  expect([...node.placed.keys()]).toEqual(["shop/cart"]);
  node.gone.add("/run/netns/a");
  expect(await next.prune()).toBe(1);
  expect([node.placed.size, node.file]).toEqual([0, undefined]);
});

test.each(["{", '{"version":2,"attachments":[]}', '{"version":1,"attachments":[{}]}'])(
  "a record that is none (%s) is said, and begins anew",
  async (text) => {
    const node = new Node();
    node.file = text;
    const sandboxes = node.agent();
    await sandboxes.load();
    expect(node.log.messages).toEqual(["record of sandboxes not read"]);
    await sandboxes.add(attachment("a"));
    expect(node.netns).toBe("/run/netns/a");
  },
);

test("garbage of one network is collected, and nothing of another", async () => {
  const node = new Node();
  const sandboxes = node.agent();
  for (const [id, network] of [
    ["a", "net"],
    ["b", "net"],
    ["c", "second"],
  ] as const)
    await sandboxes.add(attachment(id, { key: `shop/${id}`, network }));
  expect(await sandboxes.collect({ network: "net", valid: [{ containerId: "b", interface: "eth0" }] })).toBe(
    1,
  );
  expect([...node.placed.keys()]).toEqual(["shop/b", "shop/c"]);
});

test("a namespace that is not there is not taken", async () => {
  const node = new Node();
  node.gone.add("/run/netns/a");
  await expect(node.agent().add(attachment("a"))).rejects.toMatchObject({ code: "conflict" });
  expect([node.placed.size, node.file]).toEqual([0, undefined]);
});

test("many at once are written in few turns, and all of them", async () => {
  const node = new Node();
  const sandboxes = node.agent();
  await Promise.all(
    Array.from({ length: 50 }, (_, index) =>
      sandboxes.add(attachment(`c${index}`, { key: `shop/${index}` })),
    ),
  );
  expect(node.writes).toBeLessThanOrEqual(2);
  const next = node.agent();
  await next.load();
  expect(node.placed.size).toBe(50);
});

test("a full disk fails no pod", async () => {
  const node = new Node();
  const sandboxes = node.agent();
  node.full = true;
  await sandboxes.add(attachment("a"));
  expect([node.netns, node.log.messages]).toEqual(["/run/netns/a", ["sandboxes not recorded"]]);
  node.full = false;
  await sandboxes.add(attachment("b", { key: "shop/other" }));
  expect((JSON.parse(node.file ?? "") as { attachments: unknown[] }).attachments).toHaveLength(2);
});
