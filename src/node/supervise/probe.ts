import { callUnixHttp } from "../../platform/unix-http-client.js";

/** `silent`: no answer at all within the deadline, which a busy data plane gives too, but a hung one always. */
export type ProbeAnswer = "ready" | "waiting" | "silent";
export type Probe = (signal: AbortSignal) => Promise<ProbeAnswer>;

/** `GET /ready` on the data plane's admin socket. */
export function readyProbe(socketPath: string, timeoutMs: number): Probe {
  return async (signal) => {
    try {
      const { status } = await callUnixHttp({
        socketPath,
        path: "/ready",
        timeoutMs,
        signal,
        maxBytes: 64 << 10,
      });
      return status === 200 ? "ready" : "waiting";
    } catch {
      return "silent";
    }
  };
}
