import { describe, expect, test } from "vitest";
import { RecordingLogger } from "../../../test/helpers/recording-logger.js";
import { VirtualClock } from "../../../test/helpers/virtual-clock.js";
import type { Sandbox, Standing } from "../enrol/desired.js";
import type { PodState } from "../enrol/pod-state.js";
import { cniHandler } from "./handler.js";
import { Sandboxes } from "./sandboxes.js";

const event = {
  PodName: "cart",
  PodNamespace: "shop",
  PodUID: "u1",
  ContainerID: "c1",
  IfName: "eth0",
  Network: "net",
  Netns: "/run/netns/c1",
  NetnsInode: 7,
  IPs: [{ Interface: 0, Address: { IP: "10.0.0.2", Mask: "////AA==" }, Gateway: null }],
};

class Scene {
  readonly clock = new VirtualClock();
  readonly placed = new Map<string, Sandbox>();
  readonly answers: string[] = [];
  /** Whether the agent finds the runtime's namespaces. */
  sees = true;
  #standing: Standing | undefined;
  #state: PodState | undefined;
  readonly #watchers = new Set<() => void>();

  readonly #serve = cniHandler({
    pods: {
      standing: () => this.#standing,
      stateIn: (_, inode) => (inode === event.NetnsInode ? this.#state : undefined),
      until: (look, signal) =>
        new Promise((resolve) => {
          const see = (): void => {
            const seen = look();
            if (seen !== undefined || signal.aborted) resolve(seen);
          };
          this.#watchers.add(see);
          signal.addEventListener("abort", see);
          see();
        }),
    },
    sandboxes: new Sandboxes({
      file: {
        read: () => Promise.resolve(undefined),
        write: () => Promise.resolve(),
        remove: () => Promise.resolve(),
      },
      placement: {
        place: (key, sandbox) => {
          if (sandbox === undefined) this.placed.delete(key);
          else this.placed.set(key, sandbox);
        },
      },
      exists: () => this.sees,
      log: new RecordingLogger(),
    }),
    clock: this.clock,
    log: new RecordingLogger(),
    knownWithinMs: 2_000,
    capturedWithinMs: 7_000,
    goneWithinMs: 5_000,
    onAnswer: (verb, result) => this.answers.push(`${verb} ${result}`),
  });

  set(standing: Standing | undefined, state?: PodState): void {
    this.#standing = standing;
    this.#state = state;
    for (const see of this.#watchers) see();
  }

  /** The body of the answer, or the error's words. */
  async ask(path: string, body: unknown = event): Promise<unknown> {
    try {
      const answer = await this.#serve({
        method: "POST",
        path,
        query: new URLSearchParams(),
        body: Buffer.from(typeof body === "string" ? body : JSON.stringify(body)),
        signal: new AbortController().signal,
      });
      return answer.body;
    } catch (error) {
      return String(error);
    }
  }
}

const serving: PodState = { phase: "serving", sinceMs: 0 };

describe("ADD", () => {
  test("waits until the source knows the pod, and until capture is in force", async () => {
    const scene = new Scene();
    let answer: unknown;
    const asked = scene.ask("/cmdadd").then((body) => (answer = body));
    await scene.clock.advance(1_900);
    expect(scene.placed.get("shop/cart")).toMatchObject({ netnsInode: 7, ips: ["10.0.0.2"], podUid: "u1" });
    scene.set({ asks: true }, { phase: "announcing" });
    await scene.clock.advance(6_900);
    expect(answer).toBeUndefined();
    scene.set({ asks: true }, serving);
    await asked;
    expect(answer).toEqual({ decision: "enrolled" });
  });

  test("of a pod without a data plane is in force when it is captured all the same", async () => {
    const scene = new Scene();
    scene.set({ asks: true }, { phase: "refusing" });
    expect(await scene.ask("/cmdadd")).toEqual({ decision: "enrolled" });
  });

  test("does not wait for a pod that is out, nor for one that leaves meanwhile", async () => {
    const scene = new Scene();
    scene.set({ asks: false, reason: "opted_out" });
    expect(await scene.ask("/cmdadd")).toEqual({ decision: "out", reason: "opted_out" });
    scene.set({ asks: true }, { phase: "pairing" });
    const asked = scene.ask("/cmdadd");
    await scene.clock.advance(100);
    scene.set({ asks: false, reason: "not_labelled" });
    expect(await asked).toEqual({ decision: "out" });
  });

  test("of a namespace that the agent cannot see fails for a pod that asked, and for no other", async () => {
    const scene = new Scene();
    scene.sees = false;
    scene.set({ asks: true });
    expect(await scene.ask("/cmdadd")).toMatch(/no network namespace with inode 7 at \/run\/netns\/c1/);
    scene.set({ asks: false, reason: "not_labelled" });
    expect(await scene.ask("/cmdadd", { ...event, Netns: "/var/run/netns/c1" })).toEqual({
      decision: "out",
      reason: "not_labelled",
    });
  });

  test("says what it does not know, and keeps the sandbox for when it does", async () => {
    const scene = new Scene();
    const asked = scene.ask("/cmdadd");
    await scene.clock.advance(2_000);
    expect(await asked).toEqual({ decision: "unknown" });
    expect([...scene.placed.keys()]).toEqual(["shop/cart"]);
  });

  test("fails with the enrolment's reason when capture takes too long", async () => {
    const scene = new Scene();
    scene.set({ asks: true }, { phase: "announcing" });
    const asked = scene.ask("/cmdadd");
    await scene.clock.advance(7_000);
    expect(await asked).toContain(
      "shop/cart is to be in the mesh and is not captured: waiting for the data plane",
    );
    expect(scene.answers).toEqual(["add later"]);
  });
});

test("CHECK looks, and waits for nothing", async () => {
  const scene = new Scene();
  expect(await scene.ask("/cmdcheck")).toEqual({ decision: "unknown" });
  scene.set({ asks: true }, { phase: "pairing" });
  expect(await scene.ask("/cmdcheck")).toContain("not captured");
  scene.set({ asks: true }, serving);
  expect(await scene.ask("/cmdcheck")).toEqual({ decision: "enrolled" });
  expect(await scene.ask("/cmdcheck", { ...event, NetnsInode: 8 })).toContain("not captured");
});

test.each([
  ["when the namespace has been let go", 100, true],
  ["after a while where it has not", 5_000, false],
])("DEL answers %s", async (_name, ms, letGo) => {
  const scene = new Scene();
  scene.set({ asks: true }, serving);
  await scene.ask("/cmdadd");
  let answer: unknown;
  const asked = scene.ask("/cmddel").then((body) => (answer = body));
  await scene.clock.advance(ms - 1);
  expect([answer, scene.placed.size]).toEqual([undefined, 0]);
  if (letGo) scene.set(undefined);
  await scene.clock.advance(1);
  await asked;
  expect(answer).toEqual({});
  expect(await scene.ask("/cmddel")).toEqual({});
});

test.each([
  ["/cmdadd", "{", "not JSON"],
  ["/cmdadd", { ...event, Netns: "here" }, "Netns: expected an absolute path"],
  ["/cmdadd", { ...event, NetnsInode: "7" }, "NetnsInode"],
  ["/cmdadd", { ...event, IPs: [{ Address: { IP: "10.0.0.256" } }] }, 'IPs.0.Address.IP is "10.0.0.256"'],
  ["/cmdcheck", { ...event, PodName: "" }, "PodName"],
  ["/cmddel", {}, "ContainerID"],
  ["/cmdgc", { Network: "net" }, "Valid"],
  ["/cmdupdate", {}, "there is no POST /cmdupdate"],
])("%s is refused where it is wrong (%#), naming what", async (path, body, words) => {
  expect(await new Scene().ask(path, body)).toContain(words);
});
