import type { Clock } from "../platform/clock.js";

/** Resolves after `ms`, or as soon as the signal aborts (`clock.sleep` rejects then, which a loop's wait does not want). */
export async function pause(clock: Clock, ms: number, signal: AbortSignal): Promise<void> {
  try {
    await clock.sleep(ms, { signal });
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}
