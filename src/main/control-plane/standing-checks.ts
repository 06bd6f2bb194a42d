/** What the objects show beside each other: looked for after changes, seldom, and in between everything else. */
import { setImmediate as turn } from "node:timers/promises";
import { checkInSteps, type CheckOptions } from "../../domain/checks/checks.js";
import { messageOf } from "../../domain/error.js";
import type { MeshObject } from "../../domain/objects.js";
import { formatProblem, type Problem } from "../../domain/problem.js";
import type { Cancel, Clock } from "../../platform/clock.js";
import type { Logger } from "../../platform/logger.js";

export interface StandingChecksOptions {
  /** The objects that are there now. */
  readonly objects: () => Iterable<MeshObject>;
  readonly checks: CheckOptions;
  readonly clock: Clock;
  readonly log: Logger;
  readonly signal: AbortSignal;
  /** From a change until a run, for what comes with it. */
  readonly settleMs?: number;
  /** From one run to the next, at least. */
  readonly pauseMs?: number;
}

const defaults = { settleMs: 500, pauseMs: 3_000 };
/** Of the problems that are new after a run, how many are logged: the pages show all. */
const mostLogged = 20;

export class StandingChecks {
  readonly #options: Required<StandingChecksOptions>;
  #problems: readonly Problem[] = [];
  #cancel: Cancel | undefined;
  #running = false;
  #changed = false;
  #endedAtMs = -Infinity;

  constructor(options: StandingChecksOptions) {
    this.#options = { ...defaults, ...options };
  }

  /** Of the last run. */
  get problems(): readonly Problem[] {
    return this.#problems;
  }

  /** To be called after each change. */
  changed(): void {
    if (this.#running) this.#changed = true;
    if (this.#cancel || this.#running) return;
    const { clock, settleMs, pauseMs, signal } = this.#options;
    const delayMs = Math.max(settleMs, this.#endedAtMs + pauseMs - clock.monotonic());
    this.#cancel = clock.schedule(delayMs, () => void this.#run(), { signal, background: true });
  }

  async #run(): Promise<void> {
    const { objects, checks, clock, log, signal } = this.#options;
    this.#cancel = undefined;
    this.#changed = false;
    this.#running = true;
    try {
      // Each object is a value that never changes, so this list is the mesh of one moment.
      const steps = checkInSteps([...objects()], checks);
      for (let step = steps.next(); ; step = steps.next()) {
        if (step.done) {
          this.#take(step.value);
          break;
        }
        await turn();
        if (signal.aborted) return;
      }
    } catch (error) {
      log.error("configuration not checked", { error: messageOf(error) });
    } finally {
      this.#running = false;
      this.#endedAtMs = clock.monotonic();
    }
    this.#again();
  }

  #again(): void {
    if (this.#changed) this.changed();
  }

  #take(problems: readonly Problem[]): void {
    const known = new Set(this.#problems.map(formatProblem));
    const fresh = problems.map(formatProblem).filter((problem) => !known.has(problem));
    this.#problems = problems;
    for (const problem of fresh.slice(0, mostLogged))
      this.#options.log.warn("configuration problem", { problem });
    if (fresh.length > mostLogged)
      this.#options.log.warn("more configuration problems", { count: fresh.length - mostLogged });
  }
}
