import { credentials, Metadata } from "@grpc/grpc-js";
import { describe, expect, it } from "vitest";
import { VirtualClock } from "../../../test/helpers/virtual-clock.js";
import { SharedClient } from "./shared-client.js";

class Client {
  closed = 0;
  close(): void {
    this.closed += 1;
  }
}

function start() {
  const clock = new VirtualClock();
  const made: Client[] = [];
  let unreadable = false;
  const shared = new SharedClient({
    clock,
    upstream: () =>
      unreadable
        ? Promise.reject(new Error("no token"))
        : Promise.resolve({
            target: "unix:/none",
            credentials: credentials.createInsecure(),
            metadata: new Metadata(),
            options: {},
          }),
    connect: () => {
      const client = new Client();
      made.push(client);
      return client;
    },
    isAnswer: (error) => (error as Error).message === "refused",
  });
  const set = (value: boolean): void => void (unreadable = value);
  return { clock, made, shared, unreadable: set };
}

const closed = (made: readonly Client[]): number[] => made.map((client) => client.closed);

describe("a shared client", () => {
  it("serves calls that come together over one connection, and closes it when none has come for a while", async () => {
    const { clock, made, shared } = start();
    const waiting: (() => void)[] = [];
    const calls = Array.from({ length: 500 }, (_, index) =>
      shared.call(() => new Promise<number>((resolve) => waiting.push(() => resolve(index)))),
    );
    await clock.advance(0);
    for (const go of waiting) go();
    expect(await Promise.all(calls)).toHaveLength(500);
    await clock.advance(1_999);
    expect(closed(made)).toEqual([0]);
    await clock.advance(1);
    expect(closed(made)).toEqual([1]);
    expect(clock.pendingCount).toBe(0);
  });

  it("connects anew after a failure, once the calls under way have ended, and not after an answer", async () => {
    const { clock, made, shared } = start();
    await expect(shared.call(() => Promise.reject(new Error("refused")))).rejects.toThrow("refused");
    let end: () => void = () => undefined;
    const slow = shared.call(() => new Promise<void>((resolve) => (end = resolve)));
    await clock.advance(0);
    expect(made).toHaveLength(1);
    await expect(shared.call(() => Promise.reject(new Error("reset")))).rejects.toThrow("reset");
    await shared.call(() => Promise.resolve());
    expect(closed(made)).toEqual([0, 0]);
    end();
    await slow;
    expect(closed(made)).toEqual([1, 0]);
  });

  it("does not close a connection that a call has been given and does not use yet", async () => {
    const { clock, made, shared } = start();
    let fail: (error: Error) => void = () => undefined;
    const failing = shared.call(() => new Promise<void>((_, reject) => (fail = reject)));
    await clock.advance(0);
    // Its connection is chosen before the other's failure is known, and used after.
    const next = shared.call((client) => Promise.resolve(client.closed));
    fail(new Error("reset"));
    await expect(failing).rejects.toThrow("reset");
    expect(await next).toBe(0);
    expect(closed(made)).toEqual([1]);
  });

  it("reads how to connect anew after ten seconds, however busy it is", async () => {
    const { clock, made, shared } = start();
    for (let second = 0; second <= 10; second += 1) {
      await shared.call(() => Promise.resolve());
      await clock.advance(1_000);
    }
    expect(closed(made)).toEqual([1, 0]);
  });

  it("says why it cannot connect, and tries again at the next call", async () => {
    const { shared, unreadable } = start();
    unreadable(true);
    await expect(shared.call(() => Promise.resolve(1))).rejects.toThrow("no token");
    unreadable(false);
    expect(await shared.call(() => Promise.resolve(1))).toBe(1);
  });
});
