import { messageOf } from "../../domain/error.js";
import type { Clock } from "../../platform/clock.js";
import type { Logger } from "../../platform/logger.js";
import { backoffMs, type Random } from "../../platform/random.js";
import type { Sandbox } from "../enrol/desired.js";
import type { RuntimeSandbox } from "./runtime.js";

/** The node's pods as the search sees them (enrol/node-pods.ts). */
export interface SearchedPods {
  /** All sandboxes of the node, by pod; what the network plugin told comes before. */
  found(sandboxes: ReadonlyMap<string, Sandbox>): void;
  /** Whether a pod that is to be in the mesh has no place, or is no longer where it was. */
  hasUnplacedPods(): boolean;
  onChange(watcher: () => void): () => void;
}

export interface SandboxSearchDependencies {
  readonly sandboxes: () => Promise<readonly RuntimeSandbox[]>;
  readonly pods: SearchedPods;
  /** The inode of the namespace at a path; undefined: there is none. */
  readonly inodeAt: (netns: string) => number | undefined;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
}

/** For how long the runtime may be away when the agent starts: without it, pods would be taken for gone. */
const startDeadlineMs = 60_000;
/** Between two looks while a pod is missed. */
const firstRetryMs = 200;
const lastRetryMs = 5_000;
/** Changes come in crowds. */
const gatherMs = 50;

/**
 * Finds the sandboxes of pods that the network plugin did not tell of: those that ran before the agent was installed. The
 * runtime is asked at the start, and whenever a pod that is to be in the mesh has no place.
 */
export class SandboxSearch {
  constructor(private readonly dependencies: SandboxSearchDependencies) {}

  /** Before the source's first state, so that no pod is taken for one without a place. @throws where the runtime does not answer within a minute */
  async load(signal: AbortSignal): Promise<void> {
    const { clock, log, random } = this.dependencies;
    const startedMs = clock.monotonic();
    for (let attempt = 0; ; attempt++) {
      try {
        await this.#look();
        return;
      } catch (error) {
        if (signal.aborted || clock.monotonic() - startedMs > startDeadlineMs) throw error;
        log.warn("container runtime not asked", { error: messageOf(error) });
        await clock.sleep(backoffMs(random, attempt, firstRetryMs, lastRetryMs), { signal });
      }
    }
  }

  /** Looks again whenever it is needed, until the signal. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, log, pods, random } = this.dependencies;
    const ended = (): boolean => signal.aborted;
    for (let attempt = 0; !ended();) {
      if (attempt === 0) await this.#untilUnplaced(signal);
      const delayMs = attempt === 0 ? gatherMs : backoffMs(random, attempt, firstRetryMs, lastRetryMs);
      await clock.sleep(delayMs, { signal, background: true }).catch(() => undefined);
      if (ended()) return;
      try {
        await this.#look();
      } catch (error) {
        log.warn("container runtime not asked", { error: messageOf(error) });
      }
      attempt = pods.hasUnplacedPods() ? attempt + 1 : 0;
    }
  }

  #untilUnplaced(signal: AbortSignal): Promise<void> {
    const { pods } = this.dependencies;
    return new Promise((resolve) => {
      const look = (): void => {
        if (!pods.hasUnplacedPods() && !signal.aborted) return;
        forget();
        signal.removeEventListener("abort", look);
        resolve();
      };
      const forget = pods.onChange(look);
      signal.addEventListener("abort", look, { once: true });
      look();
    });
  }

  async #look(): Promise<void> {
    const { sandboxes, pods, inodeAt } = this.dependencies;
    const found = new Map<string, Sandbox>();
    for (const { key, podUid, netns, ips } of await sandboxes()) {
      const netnsInode = inodeAt(netns);
      if (netnsInode !== undefined) found.set(key, { podUid, netns, netnsInode, ips });
    }
    pods.found(found);
  }
}
