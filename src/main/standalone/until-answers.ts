import { systemClock } from "../../platform/clock.js";
import { callUnixHttp } from "../../platform/unix-http-client.js";

const pollMs = 50;

/** True once the socket answers 200, false when the signal comes first. */
export async function untilAnswers(socketPath: string, path: string, signal: AbortSignal): Promise<boolean> {
  while (!signal.aborted) {
    const answer = await callUnixHttp({ socketPath, path, timeoutMs: 2_000, signal }).catch(() => undefined);
    if (answer?.status === 200) return true;
    await systemClock.sleep(pollMs, { signal }).catch(() => undefined);
  }
  return false;
}
