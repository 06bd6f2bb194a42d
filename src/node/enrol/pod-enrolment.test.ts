import { describe, expect, it, onTestFinished } from "vitest";
import { eventually } from "../../../test/helpers/eventually.js";
import { RecordingLogger } from "../../../test/helpers/recording-logger.js";
import { steadyRandom } from "../../../test/helpers/seeded-random.js";
import { VirtualClock } from "../../../test/helpers/virtual-clock.js";
import type { CapturedPod, LayerCounts, Unannounced } from "../capture/mode.js";
import { noOriginals } from "../capture/originals.js";
import type { Capture, CaptureState } from "../capture/pod-capture.js";
import { readOptOuts } from "../capture/settings.js";
import type { ChangeWatch } from "../capture/watch.js";
import { CapturedRecord } from "./captured.js";
import type { EnrolledPod } from "./desired.js";
import { Claims, Pairing } from "./pairing.js";
import { Patrol } from "./patrol.js";
import { PodEnrolment, type DataPlanes } from "./pod-enrolment.js";
import { report } from "./pod-state.js";

const podA: EnrolledPod = {
  key: "default/a",
  workloadUid: "Kubernetes//Pod/default/a",
  podUid: "1",
  namespace: "default",
  name: "a",
  serviceAccount: "sa",
  ips: ["10.0.0.1"],
  netns: "pa",
  capture: readOptOuts({ labels: new Map(), annotations: new Map() }, undefined, undefined),
};

/** Everything around one enrolment, writing what is done to it into one list in the order of happening. */
class World implements Capture, DataPlanes {
  readonly mode = "nftables";
  readonly guardKind = "nftables";
  readonly done: string[] = [];
  readonly clock = new VirtualClock();
  readonly log = new RecordingLogger();
  readonly namespaces = new Map([
    ["pa", 100],
    ["pb", 200],
  ]);
  readonly addresses = new Map([
    [100, ["10.0.0.1"]],
    [200, ["10.0.0.1"]],
  ]);
  readonly record: string[] = [];
  broken: string[] = [];
  carried = 0;
  counted: LayerCounts = { redirection: new Map(), guard: new Map() };
  seen: LayerCounts | undefined;
  settings: CapturedPod["settings"] | undefined;
  acknowledge = true;
  awayMs = 0;
  refusal = "";
  watch: ChangeWatch | undefined;
  applyError = "";
  recordError = "";
  openError = "";
  looks = 0;
  seemsIntact = true;
  openFds = 0;
  #fail: ((text: string) => void) | undefined;
  #recorded: string | undefined;

  guardOf(): "nftables" {
    return "nftables";
  }
  originals(): Promise<typeof noOriginals> {
    return Promise.resolve(noOriginals);
  }
  prepare(pod: CapturedPod, fresh: boolean): Promise<void> {
    this.settings = pod.settings;
    this.done.push(fresh ? "guard" : "guard again");
    return Promise.resolve();
  }
  async apply(): Promise<void> {
    if (this.applyError !== "") throw new Error(this.applyError);
    this.done.push("capture redirecting");
    return Promise.resolve();
  }
  drain(): Promise<void> {
    this.done.push("capture draining");
    return Promise.resolve();
  }
  verify(pod: CapturedPod): Promise<CaptureState> {
    this.looks += 1;
    this.settings = pod.settings;
    return Promise.resolve({ broken: this.broken.splice(0), counts: this.counted });
  }
  unannounced(): Unannounced {
    return { ask: () => Promise.resolve(this.seemsIntact) };
  }
  repair(): Promise<void> {
    this.done.push("repair");
    return Promise.resolve();
  }
  counts(): Promise<LayerCounts> {
    return Promise.resolve(this.counted);
  }
  remove(): Promise<void> {
    this.done.push("remove");
    return Promise.resolve();
  }
  carriedConnections(): Promise<number> {
    return Promise.resolve(this.carried);
  }
  async serve({ uid }: { uid: string }, signal: AbortSignal): Promise<void> {
    if (this.refusal !== "") throw new Error(this.refusal);
    while (!this.acknowledge && !signal.aborted) await new Promise((resolve) => setImmediate(resolve));
    this.done.push(`serve ${uid}`);
  }
  failure(_uid: string, signal: AbortSignal): Promise<string | undefined> {
    return new Promise((resolve) => {
      this.#fail = resolve;
      signal.addEventListener("abort", () => resolve(undefined));
    });
  }
  withdraw(uid: string): Promise<void> {
    this.done.push(`withdraw ${uid}`);
    return Promise.resolve();
  }
  failServing(text: string): void {
    this.#fail?.(text);
  }

  start(): PodEnrolment {
    const claims = new Claims();
    const access = {
      openNetns: (path: string) => {
        const inode = this.namespaces.get(path.slice(path.lastIndexOf("/") + 1));
        if (this.openError !== "") throw new Error(`${path}: ${this.openError}`);
        if (inode === undefined) throw new Error(`${path}: ENOENT`);
        this.openFds += 1;
        return { fd: inode, inode };
      },
      netnsAddresses: (fd: number) =>
        Promise.resolve((this.addresses.get(fd) ?? []).map((address) => ({ interface: "eth0", address }))),
      currentNetnsInode: () => 1,
      closeFd: () => void (this.openFds -= 1),
    };
    const captured = new CapturedRecord({
      read: () => Promise.resolve(this.#recorded),
      write: (text) =>
        this.recordError === ""
          ? Promise.resolve(void (this.#recorded = text))
          : Promise.reject(new Error(this.recordError)),
      remove: () => Promise.resolve(void (this.#recorded = undefined)),
    });
    const patrol = new Patrol({
      clock: this.clock,
      log: this.log,
      glanceNetns: (places) => {
        const named = (path: string) => this.namespaces.get(path.slice(path.lastIndexOf("/") + 1));
        const differing = places.filter(({ path, inode }) => this.openError !== "" || named(path) !== inode);
        return Promise.resolve(differing.map(({ inode }) => inode));
      },
      programs: undefined,
      roundMs: 1000,
      closeLookMs: 4000,
    });
    return new PodEnrolment(podA, {
      pairing: new Pairing(access, claims, []),
      captures: { of: () => this, replace: () => Promise.resolve() },
      dataPlanes: this,
      captured,
      observer: {
        repaired: (_, parts) => this.done.push(`repaired ${parts.join()}`),
        counted: (_, counts) => (this.seen = counts),
        forget: () => undefined,
      },
      clock: this.clock,
      random: steadyRandom(1),
      log: this.log,
      watch: () => Promise.resolve(this.watch),
      patrol,
      captureGraceMs: 2000,
      drainTimeoutMs: 500,
      removeRecorded: () => Promise.resolve(void this.done.push("remove recorded")),
    });
  }

  get recorded(): string | undefined {
    return this.#recorded;
  }
}

function begin(world = new World()) {
  const enrolment = world.start();
  const running = enrolment.run();
  const phase = (wanted: string) => eventually(`phase ${wanted}`, () => enrolment.state.phase === wanted);
  onTestFinished(async () => {
    enrolment.want(undefined);
    let over = false;
    void running.then(() => (over = true));
    await eventually("the end", async () => {
      await world.clock.advance(500);
      return over;
    });
    expect(world.openFds).toBe(0);
  });
  return { world, enrolment, running, phase };
}

describe("a pod's enrolment", () => {
  it("is served before it is captured, and serving only after", async () => {
    const { world, enrolment, phase } = begin();
    await phase("serving");
    expect(world.done).toEqual(["guard", `serve ${podA.workloadUid}`, "capture redirecting"]);
    expect(enrolment.state).toEqual({ phase: "serving", sinceMs: world.clock.now() });
    expect(world.recorded).toContain('"inode":100');
  });

  it("is neither captured nor serving while no data plane acknowledges, within the grace", async () => {
    const world = new World();
    world.acknowledge = false;
    const { phase } = begin(world);
    await phase("announcing");
    await eventually("the grace", () => world.clock.nextDelayMs === 2000);
    await world.clock.advance(1999);
    expect(world.done).toEqual(["guard"]);
    world.acknowledge = true;
    await phase("serving");
    expect(world.done).toEqual(["guard", `serve ${podA.workloadUid}`, "capture redirecting"]);
  });

  it("is captured without a data plane once the grace is over, watched over, and enrolled when there is one", async () => {
    const world = new World();
    world.acknowledge = false;
    const { enrolment, phase } = begin(world);
    await eventually("the grace", () => world.clock.nextDelayMs === 2000);
    await world.clock.advance(2000);
    await phase("refusing");
    expect(report(enrolment.state)).toMatchObject({
      state: "pending",
      reason: expect.stringMatching(/refused/) as string,
    });
    expect(world.done).toEqual(["guard", "capture redirecting"]);
    expect(world.recorded).toContain('"inode":100');
    world.broken = ["table missing"];
    await eventually("the next look", () => world.clock.pendingCount > 0);
    await world.clock.advance(1000);
    await eventually("the repair", () => world.done.at(-1) === "repaired table missing");
    world.acknowledge = true;
    await phase("serving");
    expect(world.done.at(-1)).toBe(`serve ${podA.workloadUid}`);
  });

  it("is captured at once where the data plane has been away for longer than the grace", async () => {
    const world = new World();
    world.acknowledge = false;
    world.awayMs = 60_000;
    const { phase } = begin(world);
    await eventually("the grace", () => world.clock.nextDelayMs === 0);
    await world.clock.advance(0);
    await phase("refusing");
  });

  it("leaves without a trace while it waits for a data plane", async () => {
    const world = new World();
    world.acknowledge = false;
    const { enrolment, running, phase } = begin(world);
    await eventually("the grace", () => world.clock.nextDelayMs === 2000);
    await world.clock.advance(2000);
    await phase("refusing");
    enrolment.want(undefined);
    await running;
    expect(world.done).toEqual([
      "guard",
      "capture redirecting",
      "capture draining",
      `withdraw ${podA.workloadUid}`,
      "remove",
    ]);
    expect(world.recorded).toBeUndefined();
  });

  it("is captured although the record cannot be written, and says so", async () => {
    const world = new World();
    world.recordError = "no space left on device";
    const { phase } = begin(world);
    await phase("serving");
    expect(world.done).toContain("capture redirecting");
    expect(world.log.messages).toContain("captured namespace not recorded");
  });

  it("looks for a namespace that does not exist at least every second", async () => {
    const world = new World();
    world.namespaces.delete("pa");
    const { phase } = begin(world);
    for (const delayMs of [250, 500, 1000, 1000, 1000]) {
      await phase("failed");
      await eventually("the pause", () => world.clock.nextDelayMs === delayMs);
      await world.clock.advance(delayMs);
    }
    world.namespaces.set("pa", 100);
    await eventually("the pause", () => world.clock.nextDelayMs === 1000);
    await world.clock.advance(1000);
    await phase("serving");
  });

  it("takes new settings without being paired anew, and does not call that a repair", async () => {
    const { world, enrolment, phase } = begin();
    await phase("serving");
    await eventually("the first look", () => world.looks === 1);
    expect(world.settings).toMatchObject({ addresses: ["10.0.0.1"], excludeInboundPorts: [] });
    world.done.length = 0;
    world.broken = ["table changed"];
    const annotations = new Map([["meltemi.io/exclude-inbound-ports", "9100"]]);
    const capture = readOptOuts({ labels: new Map(), annotations }, undefined, undefined);
    enrolment.want({ ...podA, capture });
    await eventually("the change", () => world.done.includes("repair"));
    expect(world.settings).toMatchObject({ excludeInboundPorts: [9100] });
    expect(world.done).toEqual(["repair"]);
    expect(enrolment.state.phase).toBe("serving");
  });

  it("tells its drops when asked, between two looks", async () => {
    const { world, enrolment, phase } = begin();
    await phase("serving");
    world.counted = { redirection: new Map([["unserved", 3]]), guard: new Map() };
    await enrolment.readDrops();
    expect(world.seen).toBe(world.counted);
  });

  it("looks at its capture seldom where the kernel tells of changes, and as often as at its pairing where it does not", async () => {
    for (const told of [true, false]) {
      const world = new World();
      if (told) world.watch = { next: () => new Promise(() => undefined), close: () => undefined };
      const { phase } = begin(world);
      await phase("serving");
      await eventually("the first look", () => world.looks === 1);
      for (let second = 1; second <= 4; second += 1) {
        await eventually("the next look", () => world.clock.nextDelayMs === 1000);
        await world.clock.advance(1000);
      }
      await eventually("the last look", () => world.looks === (told ? 2 : 5));
    }
  });

  it("hears from the patrol that its namespace is another one now, also where nothing else is looked at", async () => {
    const world = new World();
    world.watch = { next: () => new Promise(() => undefined), close: () => undefined };
    const { phase } = begin(world);
    await phase("serving");
    await eventually("the first look", () => world.looks === 1);
    world.namespaces.set("pa", 200);
    world.addresses.set(200, []);
    await eventually("the next round", () => world.clock.nextDelayMs === 1000);
    await world.clock.advance(1000);
    await phase("failed");
    expect(world.done).toContain(`withdraw ${podA.workloadUid}`);
  });

  it("looks closely as soon as a glance finds what the kernel does not tell of", async () => {
    const world = new World();
    world.watch = { next: () => new Promise(() => undefined), close: () => undefined };
    const { phase } = begin(world);
    await phase("serving");
    await eventually("the first look", () => world.looks === 1);
    world.seemsIntact = false;
    world.broken = ["guard link gone"];
    await eventually("the next glance", () => world.clock.nextDelayMs === 1000);
    await world.clock.advance(1000);
    await eventually("the repair", () => world.done.at(-1) === "repaired guard link gone");
    world.seemsIntact = true;
  });

  it("leaves in order: new connections freed, data plane told, rules gone when carried connections have ended", async () => {
    const { world, enrolment, running, phase } = begin();
    await phase("serving");
    world.carried = 1;
    world.done.length = 0;
    enrolment.want(undefined);
    await phase("leaving");
    await world.clock.advance(300);
    expect(world.done).toEqual(["capture draining", `withdraw ${podA.workloadUid}`]);
    world.carried = 0;
    await world.clock.advance(200);
    await running;
    expect(world.done.at(-1)).toBe("remove");
    expect(world.recorded).toBeUndefined();
  });

  it("does not wait for carried connections beyond the drain timeout", async () => {
    const { world, enrolment, running, phase } = begin();
    await phase("serving");
    world.carried = 1;
    enrolment.want(undefined);
    await phase("leaving");
    await world.clock.advance(1000);
    await running;
    expect(world.done.at(-1)).toBe("remove");
  });

  it("is paired anew with its capture left in force when its identity changes", async () => {
    const { world, enrolment, phase } = begin();
    await phase("serving");
    world.done.length = 0;
    enrolment.want({ ...podA, serviceAccount: "other" });
    await eventually("it to serve again", () => world.done.includes("capture redirecting"));
    expect(world.done).toEqual([
      `withdraw ${podA.workloadUid}`,
      "guard again",
      `serve ${podA.workloadUid}`,
      "capture redirecting",
    ]);
  });

  it("frees its former namespace when it moves to another", async () => {
    const { world, enrolment, phase } = begin();
    await phase("serving");
    world.done.length = 0;
    enrolment.want({ ...podA, netns: "pb" });
    await eventually("it to serve again", () => world.done.includes("capture redirecting"));
    expect(world.done).toEqual([
      "capture draining",
      `withdraw ${podA.workloadUid}`,
      "remove",
      "guard",
      `serve ${podA.workloadUid}`,
      "capture redirecting",
    ]);
  });

  it("fails with the data plane's words, retries with back-off, and tells the log once", async () => {
    const world = new World();
    world.refusal = "cannot bind 15001";
    const { enrolment, phase } = begin(world);
    await phase("failed");
    expect(enrolment.state).toMatchObject({ reason: "cannot bind 15001", attempts: 1 });
    for (const delayMs of [250, 500, 1000]) {
      expect(world.clock.nextDelayMs).toBe(delayMs);
      await world.clock.advance(delayMs);
      await phase("failed");
    }
    expect(world.log.messages.filter((message) => message === "pod not enrolled")).toHaveLength(1);
    world.refusal = "";
    await world.clock.advance(2000);
    await phase("serving");
  });

  it("withdraws a pod whose namespace or address is another's now, and leaves capture in force", async () => {
    for (const change of ["namespace", "address"]) {
      const { world, enrolment, phase } = begin();
      await phase("serving");
      world.done.length = 0;
      if (change === "namespace") world.namespaces.set("pa", 200);
      else world.addresses.set(100, ["10.0.0.9"]);
      if (change === "namespace") world.addresses.set(200, []);
      await world.clock.advance(1000);
      await phase("failed");
      expect(world.done).toEqual([`withdraw ${podA.workloadUid}`]);
      expect(enrolment.state).toMatchObject({ phase: "failed" });
      expect(world.recorded).toContain("default/a");
    }
  });

  it("goes on serving while the agent has no descriptor left to verify the pairing with, and says so", async () => {
    const { world, phase, enrolment } = begin();
    await phase("serving");
    world.openError = "EMFILE: Too many open files";
    await eventually("the next look", () => world.clock.nextDelayMs === 1000);
    await world.clock.advance(1000);
    await eventually("the log", () => world.log.messages.includes("pairing not verified"));
    expect(enrolment.state.phase).toBe("serving");
    expect(world.done).not.toContain(`withdraw ${podA.workloadUid}`);
    world.openError = "";
  });

  it("withdraws a pod that a restarted data plane cannot serve", async () => {
    const { world, enrolment, phase } = begin();
    await phase("serving");
    world.failServing("out of descriptors");
    await phase("failed");
    expect(enrolment.state).toMatchObject({
      reason: expect.stringContaining("out of descriptors") as string,
    });
    expect(world.done).not.toContain("remove");
  });

  it("puts right what is broken, and says what it was", async () => {
    const { world, phase } = begin();
    await phase("serving");
    world.done.length = 0;
    world.broken = ["table missing"];
    await world.clock.advance(1000);
    await eventually("the repair", () => world.done.length === 2);
    expect(world.done).toEqual(["repair", "repaired table missing"]);
  });

  it("looks at once when the kernel tells of a change, and closes the watch when it ends", async () => {
    const world = new World();
    let tell: (changed: boolean) => void = () => undefined;
    let closed = 0;
    world.watch = {
      next: () => new Promise((resolve) => (tell = resolve)),
      close: () => (closed += 1),
    };
    const { enrolment, running, phase } = begin(world);
    await phase("serving");
    world.done.length = 0;
    for (const part of ["table changed", "table missing"]) {
      world.broken = [part];
      tell(true);
      await eventually("the repair", () => world.done.at(-1) === `repaired ${part}`);
    }
    enrolment.want(undefined);
    await running;
    expect(closed).toBe(1);
  });

  it("cleans up by record when it leaves while its namespace is not open", async () => {
    const { world, enrolment, running, phase } = begin();
    await phase("serving");
    world.namespaces.delete("pa");
    await world.clock.advance(1000);
    await phase("failed");
    enrolment.want(undefined);
    await running;
    expect(world.done.at(-1)).toBe("remove recorded");
  });
});
