import { describe, expect, it } from "vitest";
import { VirtualClock } from "../../test/helpers/virtual-clock.js";
import { every, systemClock, type Clock } from "./clock.js";

/** One suite for every clock: `pass` lets at least the given time go by. */
const clocks: [string, () => { clock: Clock; pass: (ms: number) => Promise<void> }][] = [
  ["systemClock", () => ({ clock: systemClock, pass: (ms) => systemClock.sleep(ms) })],
  [
    "VirtualClock",
    () => {
      const clock = new VirtualClock();
      return { clock, pass: (ms) => clock.advance(ms) };
    },
  ],
];

describe.each(clocks)("%s", (_name, make) => {
  it("runs tasks in the order of their time", async () => {
    const { clock, pass } = make();
    const seen: number[] = [];
    clock.schedule(30, () => seen.push(30));
    clock.schedule(1, () => seen.push(1));
    await pass(60);
    expect(seen).toEqual([1, 30]);
  });

  it("does not run a cancelled or aborted task", async () => {
    const { clock, pass } = make();
    const seen: string[] = [];
    const abort = new AbortController();
    clock.schedule(5, () => seen.push("cancelled"))();
    clock.schedule(5, () => seen.push("aborted"), { signal: abort.signal });
    clock.schedule(5, () => seen.push("never"), { signal: AbortSignal.abort() });
    clock.schedule(5, () => seen.push("run"));
    abort.abort();
    await pass(40);
    expect(seen).toEqual(["run"]);
  });

  it("rejects a sleep with the signal's reason, also one aborted before", async () => {
    const { clock } = make();
    const abort = new AbortController();
    const sleeping = clock.sleep(60_000, { signal: abort.signal });
    abort.abort(new Error("stopping"));
    await expect(sleeping).rejects.toThrow("stopping");
    await expect(clock.sleep(1, { signal: AbortSignal.abort() })).rejects.toThrow();
  });

  it("goes forward", async () => {
    const { clock, pass } = make();
    const [wall, elapsed] = [clock.now(), clock.monotonic()];
    await pass(20);
    expect(clock.now() - wall).toBeGreaterThanOrEqual(18);
    expect(clock.monotonic() - elapsed).toBeGreaterThanOrEqual(18);
  });

  it("does not fire at once for delays beyond 31 bits", async () => {
    const { clock, pass } = make();
    let fired = false;
    const cancel = clock.schedule(2 ** 32, () => (fired = true));
    await pass(30);
    cancel();
    expect(fired).toBe(false);
  });
});

describe("every", () => {
  it("goes on after a failure and ends with the signal", async () => {
    const clock = new VirtualClock();
    const abort = new AbortController();
    const errors: unknown[] = [];
    let rounds = 0;
    const ended = every(
      clock,
      100,
      () => {
        rounds++;
        if (rounds === 1) throw new Error("first");
      },
      { signal: abort.signal, onError: (error) => errors.push(error) },
    );
    await clock.advance(350);
    abort.abort();
    await ended;
    await clock.advance(1000);
    expect(rounds).toBe(3);
    expect(errors).toHaveLength(1);
    expect(clock.pendingCount).toBe(0);
  });
});
