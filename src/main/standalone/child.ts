/** One child process of standalone: started, restarted with back-off when it ends, ended in order. */
import { messageOf } from "../../domain/error.js";
import type { Clock } from "../../platform/clock.js";
import type { Logger } from "../../platform/logger.js";
import type { Processes, SpawnOptions } from "../../platform/process.js";
import { backoffMs, type Random } from "../../platform/random.js";
import type { InstanceFile } from "./instance-file.js";

export interface ChildParts {
  readonly processes: Processes;
  readonly instance: InstanceFile;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
}

export interface ChildOptions {
  readonly name: string;
  readonly netns: string | undefined;
  readonly spawn: SpawnOptions;
  /** How long it may take to end in order. */
  readonly stopTimeoutMs: number;
}

const firstRestartMs = 100;
const lastRestartMs = 10_000;
/** One that has run this long has earned a quick restart again. */
const steadyMs = 30_000;

export class Child {
  readonly #parts: ChildParts;
  readonly #options: ChildOptions;
  readonly #stop = new AbortController();
  readonly #running: Promise<void>;

  /** Starts it. */
  constructor(parts: ChildParts, options: ChildOptions) {
    this.#parts = parts;
    this.#options = options;
    this.#running = this.#run();
  }

  get netns(): string | undefined {
    return this.#options.netns;
  }

  /** Asked anew each time: it may have changed during any await. */
  #stopping(): boolean {
    return this.#stop.signal.aborted;
  }

  async #run(): Promise<void> {
    const { processes, instance, clock, random, log } = this.#parts;
    const { name, netns, spawn, stopTimeoutMs } = this.#options;
    let attempt = 0;
    while (!this.#stopping()) {
      const startedMs = clock.monotonic();
      try {
        const child = await processes.spawnDetached(spawn);
        const end = (): void => void child.stop(stopTimeoutMs);
        this.#stop.signal.addEventListener("abort", end, { once: true });
        // A stop that was asked for while it was being started.
        if (this.#stopping()) end();
        // It runs, noted or not (a full disk): another one beside it would be worse.
        await instance.set(name, { identity: child.identity, netns }).catch((error: unknown) => {
          log.error("process not noted", { name, pid: child.identity.pid, error: messageOf(error) });
        });
        log.info("process started", { name, pid: child.identity.pid });
        const exit = await child.exited;
        this.#stop.signal.removeEventListener("abort", end);
        child.release();
        if (this.#stopping()) {
          log.info("process stopped", { name, code: exit.code, signal: exit.signal });
          return;
        }
        log.error("process ended", {
          name,
          pid: child.identity.pid,
          code: exit.code,
          signal: exit.signal,
          log: spawn.stderrFile,
        });
      } catch (error) {
        log.error("process not started", { name, error: messageOf(error) });
      }
      // Its entry stays: what it left must be found by the next instance if this one is killed now.
      if (clock.monotonic() - startedMs > steadyMs) attempt = 0;
      await clock
        .sleep(backoffMs(random, attempt, firstRestartMs, lastRestartMs), { signal: this.#stop.signal })
        .catch(() => undefined);
      attempt += 1;
    }
  }

  /** SIGTERM, and SIGKILL when it takes too long; resolves when it has ended and is forgotten. */
  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#running;
    await this.#parts.instance.set(this.#options.name, undefined);
  }
}
