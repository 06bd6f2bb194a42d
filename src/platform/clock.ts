/** A pending task; calling it again, or after the task ran, does nothing. */
export type Cancel = () => void;

export interface TimerOptions {
  /** Ends the timer; a `sleep` then rejects with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
  /** `true`: the timer alone does not keep the process alive. */
  readonly background?: boolean;
}

/** Time as an argument. Delays may be of any length (Node's own timers end at 24.8 days). */
export interface Clock {
  /** Wall clock, milliseconds since 1970. */
  now(): number;
  /** Milliseconds that only go forward, for durations. */
  monotonic(): number;
  /** Runs `task` once after `delayMs`. */
  schedule(delayMs: number, task: () => void, options?: TimerOptions): Cancel;
  /** Resolves after `delayMs`. */
  sleep(delayMs: number, options?: TimerOptions): Promise<void>;
}

/** setTimeout holds its delay in 31 bits and fires at once beyond. */
const longestTimeoutMs = 2 ** 31 - 1;

export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  schedule,
  sleep: (delayMs, options) => sleepWith(schedule, delayMs, options),
};

function schedule(delayMs: number, task: () => void, options: TimerOptions = {}): Cancel {
  const { signal, background = false } = options;
  if (signal?.aborted) return () => undefined;
  const due = performance.now() + delayMs;
  let timer: NodeJS.Timeout;
  const arm = (): void => {
    const left = due - performance.now();
    if (left > longestTimeoutMs) timer = setTimeout(arm, longestTimeoutMs);
    else timer = setTimeout(fire, Math.max(0, left));
    if (background) timer.unref();
  };
  const cancel = (): void => {
    clearTimeout(timer);
    signal?.removeEventListener("abort", cancel);
  };
  const fire = (): void => {
    signal?.removeEventListener("abort", cancel);
    task();
  };
  signal?.addEventListener("abort", cancel, { once: true });
  arm();
  return cancel;
}

/** `sleep` on top of any `schedule`. */
export function sleepWith(
  start: Clock["schedule"],
  delayMs: number,
  options: TimerOptions = {},
): Promise<void> {
  const { signal, background } = options;
  return new Promise((resolve, reject) => {
    if (signal?.aborted) {
      reject(reasonOf(signal));
      return;
    }
    const onAbort = (): void => {
      cancel();
      if (signal !== undefined) reject(reasonOf(signal));
    };
    const cancel = start(
      delayMs,
      () => {
        signal?.removeEventListener("abort", onAbort);
        resolve();
      },
      background === undefined ? {} : { background },
    );
    signal?.addEventListener("abort", onAbort, { once: true });
  });
}

/**
 * Runs `task` every `periodMs`, the next period beginning when the task has ended, until the signal.
 * A task that throws goes to `onError` and does not end the rounds.
 */
export async function every(
  clock: Clock,
  periodMs: number,
  task: () => Promise<void> | void,
  options: {
    readonly signal: AbortSignal;
    readonly onError: (error: unknown) => void;
    readonly background?: boolean;
  },
): Promise<void> {
  const { signal, onError, background = false } = options;
  while (!signal.aborted) {
    try {
      await clock.sleep(periodMs, { signal, background });
    } catch {
      return;
    }
    try {
      await task();
    } catch (error) {
      onError(error);
    }
  }
}

/** The reason of an aborted signal as an Error. */
export function reasonOf(signal: AbortSignal): Error {
  const reason: unknown = signal.reason;
  return reason instanceof Error ? reason : new DOMException(String(reason), "AbortError");
}
