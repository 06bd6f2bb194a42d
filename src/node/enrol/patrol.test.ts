import { describe, expect, it } from "vitest";
import { RecordingLogger } from "../../../test/helpers/recording-logger.js";
import { VirtualClock } from "../../../test/helpers/virtual-clock.js";
import type { Unannounced } from "../capture/mode.js";
import { Patrol, type PatrolMembership } from "./patrol.js";

const roundMs = 5_000;
const closeLookMs = 300_000;
const sysctls = [{ name: "net/ipv4/fwmark_reflect", value: "1" }];

/** A patrol over namespaces that are what a test says, and what it has asked the kernel. */
class Beat {
  readonly clock = new VirtualClock();
  readonly log = new RecordingLogger();
  readonly looks: number[] = [];
  readonly asked: { places: readonly object[]; expected: readonly (readonly object[])[] }[] = [];
  readonly programsAsked: number[][] = [];
  differing: readonly number[] = [];
  broken: readonly number[] = [];
  error = "";
  readonly patrol = new Patrol({
    clock: this.clock,
    log: this.log,
    glanceNetns: (places, expected) => {
      this.asked.push({ places, expected });
      return this.error === "" ? Promise.resolve(this.differing) : Promise.reject(new Error(this.error));
    },
    programs: {
      glance: (inodes) => {
        this.programsAsked.push([...inodes]);
        return Promise.resolve(this.broken);
      },
    },
    roundMs,
    closeLookMs,
  });

  join(
    inode: number,
    unannounced: Unannounced = { programs: true, sysctls },
    watched = true,
    look: (membership: PatrolMembership) => void = (membership) => membership.looked(),
  ): PatrolMembership {
    const membership = this.patrol.join({
      inode,
      path: `/run/netns/p${inode}`,
      watched: () => watched,
      unannounced: () => unannounced,
      look: () => {
        this.looks.push(inode);
        look(membership);
      },
    });
    return membership;
  }
}

describe("the patrol", () => {
  it("asks the kernel twice a round for all namespaces together, and tells equal lists of sysctls once", async () => {
    const beat = new Beat();
    for (let inode = 1; inode <= 500; inode += 1) beat.join(inode);
    beat.join(501, {});
    expect(beat.clock.pendingCount).toBe(1);
    await beat.clock.advance(roundMs);
    expect(beat.asked).toHaveLength(1);
    expect(beat.asked[0]?.places).toHaveLength(501);
    expect(beat.asked[0]?.expected).toEqual([sysctls, []]);
    expect(beat.programsAsked).toHaveLength(1);
    expect(beat.programsAsked[0]).toHaveLength(500);
    expect(beat.looks).toEqual([]);
    expect(beat.clock.nextDelayMs).toBe(roundMs);
  });

  it("has looked at closely what differs, and no other", async () => {
    const beat = new Beat();
    for (const inode of [1, 2, 3, 4]) beat.join(inode);
    beat.differing = [2];
    beat.broken = [4];
    await beat.clock.advance(roundMs);
    expect(beat.looks).toEqual([2, 4]);
  });

  it("has everything looked at where the kernel cannot be asked, and says so", async () => {
    const beat = new Beat();
    for (const inode of [1, 2]) beat.join(inode);
    beat.error = "start a thread: EAGAIN";
    await beat.clock.advance(roundMs);
    expect(beat.looks).toEqual([1, 2]);
    expect(beat.log.messages).toContain("captured namespaces not glanced at");
    beat.error = "";
    await beat.clock.advance(roundMs);
    expect(beat.looks).toEqual([1, 2]);
  });

  it("has a namespace that netlink does not tell of looked at every round", async () => {
    const beat = new Beat();
    beat.join(1, {}, false);
    beat.join(2, {});
    await beat.clock.advance(3 * roundMs);
    expect(beat.looks).toEqual([1, 1, 1]);
  });

  it("has each of a few namespaces looked at closely once an interval", async () => {
    const beat = new Beat();
    for (const inode of [1, 2, 3]) beat.join(inode);
    await beat.clock.advance(closeLookMs - roundMs);
    expect(beat.looks).toEqual([]);
    await beat.clock.advance(roundMs * 3);
    expect([...beat.looks].sort()).toEqual([1, 2, 3]);
  });

  it("spreads the close looks at many namespaces: never more than two a round", async () => {
    const beat = new Beat();
    for (let inode = 1; inode <= 500; inode += 1) beat.join(inode);
    let [former, most] = [0, 0];
    const turns = (500 * 4_000) / roundMs + 500 / 2;
    for (let round = 0; round < turns; round += 1) {
      await beat.clock.advance(roundMs);
      most = Math.max(most, beat.looks.length - former);
      former = beat.looks.length;
    }
    expect(most).toBe(2);
    expect(new Set(beat.looks).size).toBe(500);
  });

  it("goes on to the others where the close look at one never ends", async () => {
    const beat = new Beat();
    beat.join(1, {}, true, () => undefined);
    for (const inode of [2, 3]) beat.join(inode, {});
    await beat.clock.advance(closeLookMs + 3 * roundMs);
    expect(beat.looks).toEqual([1, 2, 3]);
  });

  it("goes on where a look throws, with the others in the same round and with the next one", async () => {
    const beat = new Beat();
    beat.join(1, {}, false, () => {
      throw new Error("EMFILE");
    });
    beat.join(2, {}, false);
    await beat.clock.advance(2 * roundMs);
    expect(beat.looks).toEqual([1, 2, 1, 2]);
    expect(beat.log.messages).toContain("captured namespace not looked at");
  });

  it("asks programs of the system about a few namespaces a round where only they can tell", async () => {
    const beat = new Beat();
    let asked = 0;
    const ask = (): Promise<boolean> => Promise.resolve((asked += 1) !== 3);
    for (let inode = 1; inode <= 200; inode += 1) beat.join(inode, { ask });
    // Half of them belong to a round: an interval is two.
    await beat.clock.advance(2 * roundMs);
    expect(asked).toBe(100);
    await beat.clock.advance(roundMs);
    expect(asked).toBe(200);
    expect(beat.looks).toHaveLength(1);
  });

  it("rests without namespaces, and no round begins before the last one has ended", async () => {
    const beat = new Beat();
    const memberships = [beat.join(1), beat.join(2)];
    for (const membership of memberships) membership.leave();
    expect(beat.clock.pendingCount).toBe(0);
    await beat.clock.advance(10 * roundMs);
    expect(beat.asked).toEqual([]);

    let answer: (intact: boolean) => void = () => undefined;
    const slow = beat.join(3, { ask: () => new Promise((resolve) => (answer = resolve)) });
    await beat.clock.advance(3 * roundMs);
    expect(beat.asked).toHaveLength(1);
    slow.leave();
    answer(false);
    await beat.clock.advance(roundMs);
    expect(beat.looks).toEqual([]);
    expect(beat.clock.pendingCount).toBe(0);
  });
});
