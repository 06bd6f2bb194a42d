import { messageOf } from "../../domain/error.js";
import type { Unannounced } from "../capture/mode.js";
import type { Cancel, Clock } from "../../platform/clock.js";
import type { Logger } from "../../platform/logger.js";
import type { NativeAddon, NodeBpf, SysctlValue } from "../../platform/native.js";

/** A captured namespace, as the patrol passes by it. */
export interface Patrolled {
  readonly inode: number;
  /** The file by which the namespace was paired. */
  readonly path: string;
  /** Whether netlink tells of what it can. */
  readonly watched: () => boolean;
  readonly unannounced: () => Unannounced;
  /** Has the namespace looked at closely. */
  readonly look: () => void;
}

export interface PatrolMembership {
  /** A close look has come to its end. */
  looked(): void;
  leave(): void;
}

export interface PatrolParts {
  readonly clock: Clock;
  readonly log: Logger;
  readonly glanceNetns: NativeAddon["glanceNetns"];
  /** Undefined where the kernel has no BPF for us. */
  readonly programs: Pick<NodeBpf, "glance"> | undefined;
  /** Time between two rounds. */
  readonly roundMs: number;
  /** Time between two close looks at a namespace of which nothing is heard; longer where there are many. */
  readonly closeLookMs: number;
}

/** A close look costs some 20 ms of CPU, for the programs it runs: with many namespaces half a hundredth of a core. */
const closeLookShareMs = 4_000;
/** Asking a program of the system costs some 5 ms: with many namespaces a tenth of a core. */
const askingShareMs = 50;

interface Member extends Patrolled {
  lookedMs: number;
  askedMs: number;
}

/**
 * Passes by all captured namespaces every few seconds, and looks at what the kernel does not announce: whether each
 * is still what its path leads to, its programs' links and its sysctls. That is two calls for all of them together,
 * and no timer, thread or program for each: an agent at rest costs next to nothing. What differs is looked at closely
 * by its own enrolment, and so is each namespace in its turn once in a long while.
 */
export class Patrol {
  readonly #members = new Set<Member>();
  #cancel: Cancel | undefined;
  #walking = false;

  constructor(private readonly parts: PatrolParts) {}

  /** From now on the namespace is passed by. The first close look is the caller's own. */
  join(pod: Patrolled): PatrolMembership {
    const nowMs = this.parts.clock.monotonic();
    const member: Member = { ...pod, lookedMs: nowMs, askedMs: nowMs };
    this.#members.add(member);
    this.#schedule();
    return {
      looked: () => {
        member.lookedMs = this.parts.clock.monotonic();
      },
      leave: () => {
        this.#members.delete(member);
        if (this.#members.size > 0) return;
        this.#cancel?.();
        this.#cancel = undefined;
      },
    };
  }

  #schedule(): void {
    if (this.#cancel !== undefined || this.#walking || this.#members.size === 0) return;
    this.#cancel = this.parts.clock.schedule(
      this.parts.roundMs,
      () => {
        this.#cancel = undefined;
        void this.#round();
      },
      { background: true },
    );
  }

  async #round(): Promise<void> {
    this.#walking = true;
    try {
      const members = [...this.#members];
      const differing = await this.#differing(members);
      for (const member of members)
        if (differing.has(member.inode) || !member.watched()) this.#lookAt(member);
      for (const member of this.#inTurn(members, "lookedMs", this.parts.closeLookMs, closeLookShareMs))
        this.#lookAt(member);
    } finally {
      this.#walking = false;
      this.#schedule();
    }
  }

  /** What cannot be looked at is not as it should be. */
  async #differing(members: readonly Member[]): Promise<ReadonlySet<number>> {
    try {
      const seen = members.map((member) => ({ member, ...member.unannounced() }));
      const attached = seen.filter(({ programs }) => programs).map(({ member }) => member.inode);
      const answers = await Promise.all([
        this.#namespaces(seen),
        attached.length === 0 ? [] : (this.parts.programs?.glance(attached) ?? []),
        this.#asked(members),
      ]);
      return new Set(answers.flat());
    } catch (error) {
      this.parts.log.warn("captured namespaces not glanced at", { error: messageOf(error) });
      return new Set(members.map(({ inode }) => inode));
    }
  }

  #namespaces(
    seen: readonly { readonly member: Member; readonly sysctls?: readonly SysctlValue[] }[],
  ): Promise<readonly number[]> {
    // Most namespaces are to have the same values: each list is told once.
    const lists = new Map<readonly SysctlValue[], number>();
    const places = seen.map(({ member: { path, inode }, sysctls = none }) => {
      const expected = lists.get(sysctls) ?? lists.size;
      lists.set(sysctls, expected);
      return { path, inode, expected };
    });
    return this.parts.glanceNetns(places, [...lists.keys()]);
  }

  /** Where only a program can tell. One after the other: each is a process. */
  async #asked(members: readonly Member[]): Promise<readonly number[]> {
    const asking = members.filter((member) => member.unannounced().ask !== undefined);
    const differing: number[] = [];
    for (const member of this.#inTurn(asking, "askedMs", this.parts.roundMs, askingShareMs)) {
      const intact = await member
        .unannounced()
        .ask?.()
        .catch(() => false);
      member.askedMs = this.parts.clock.monotonic();
      if (intact === false) differing.push(member.inode);
    }
    return differing;
  }

  /** Those that have waited for an interval, the longest first, and no more of them than belong to one round. */
  #inTurn(
    members: readonly Member[],
    since: "lookedMs" | "askedMs",
    leastMs: number,
    shareMs: number,
  ): readonly Member[] {
    const { clock, roundMs } = this.parts;
    const intervalMs = Math.max(leastMs, members.length * shareMs);
    const dueMs = clock.monotonic() - intervalMs;
    return members
      .filter((member) => member[since] <= dueMs)
      .sort((a, b) => a[since] - b[since])
      .slice(0, Math.ceil((members.length * roundMs) / intervalMs));
  }

  #lookAt(member: Member): void {
    if (!this.#members.has(member)) return;
    // Not only when the look has ended: one that never does would be the longest waiting for ever.
    member.lookedMs = this.parts.clock.monotonic();
    try {
      member.look();
    } catch (error) {
      this.parts.log.warn("captured namespace not looked at", {
        path: member.path,
        error: messageOf(error),
      });
    }
  }
}

const none: readonly SysctlValue[] = [];
