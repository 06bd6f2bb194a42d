import { sleepWith, type Cancel, type Clock, type TimerOptions } from "../../src/platform/clock.js";

interface Pending {
  readonly dueMs: number;
  readonly order: number;
  readonly task: () => void;
}

/** Time that moves only when a test says so. Tasks run in the order of their time, then of their making. */
export class VirtualClock implements Clock {
  #wallMs: number;
  #elapsedMs = 0;
  #made = 0;
  readonly #pending = new Set<Pending>();

  constructor(startMs = Date.UTC(2026, 0, 1)) {
    this.#wallMs = startMs;
  }

  now(): number {
    return this.#wallMs;
  }

  monotonic(): number {
    return this.#elapsedMs;
  }

  schedule(delayMs: number, task: () => void, options: TimerOptions = {}): Cancel {
    const { signal } = options;
    if (signal?.aborted) return () => undefined;
    const cancel = (): void => {
      this.#pending.delete(pending);
      signal?.removeEventListener("abort", cancel);
    };
    const pending: Pending = {
      dueMs: this.#elapsedMs + Math.max(0, delayMs),
      order: this.#made++,
      task: () => {
        signal?.removeEventListener("abort", cancel);
        task();
      },
    };
    this.#pending.add(pending);
    signal?.addEventListener("abort", cancel, { once: true });
    return cancel;
  }

  sleep(delayMs: number, options?: TimerOptions): Promise<void> {
    return sleepWith((ms, task, more) => this.schedule(ms, task, more), delayMs, options);
  }

  /** How many tasks wait. */
  get pendingCount(): number {
    return this.#pending.size;
  }

  /** The time until the next task, `undefined` when none waits. */
  get nextDelayMs(): number | undefined {
    const next = this.#next();
    return next === undefined ? undefined : next.dueMs - this.#elapsedMs;
  }

  /** Moves on by `ms`, running what falls due, and lets promises settle after each task. */
  async advance(ms: number): Promise<void> {
    const untilMs = this.#elapsedMs + ms;
    await settle();
    for (let next = this.#next(); next !== undefined && next.dueMs <= untilMs; next = this.#next()) {
      this.#moveTo(next.dueMs);
      this.#pending.delete(next);
      next.task();
      await settle();
    }
    this.#moveTo(untilMs);
  }

  /** Sets the wall clock alone, as an administrator or NTP does. */
  setWallClock(ms: number): void {
    this.#wallMs = ms;
  }

  #moveTo(elapsedMs: number): void {
    this.#wallMs += elapsedMs - this.#elapsedMs;
    this.#elapsedMs = elapsedMs;
  }

  #next(): Pending | undefined {
    let next: Pending | undefined;
    for (const one of this.#pending) {
      if (
        next === undefined ||
        one.dueMs < next.dueMs ||
        (one.dueMs === next.dueMs && one.order < next.order)
      )
        next = one;
    }
    return next;
  }
}

/** One turn of the event loop: every promise that could settle has. */
function settle(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
