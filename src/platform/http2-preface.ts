import type { Socket } from "node:net";
import type { Clock } from "./clock.js";

/** What a client of HTTP/2 sends first (RFC 9113, 3.4): the preface, and a SETTINGS frame. */
const preface = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
const frameHeadBytes = 9;
const settingsType = 4;
const ackFlag = 1;
const mostSettingsBytes = 16_384;

/** How a connection begins: as HTTP/2, with something else, or not at all. */
export type Beginning = "http2" | "malformed" | "silent";

/**
 * Looks at the first bytes of a connection, and leaves them to be read. What is no HTTP/2 is told apart here because a
 * server destroys such a connection without a word. Resolves at the first byte that does not fit, when the peer hangs up,
 * and at the latest after `deadlineMs`.
 */
export async function beginningOf(
  socket: Socket,
  clock: Clock,
  deadlineMs: number,
  signal: AbortSignal,
): Promise<Beginning> {
  let seen = Buffer.alloc(0);
  const done = new AbortController();
  const beginning = new Promise<Beginning>((resolve) => {
    const look = (): void => {
      for (let chunk = socket.read() as Buffer | null; chunk !== null; chunk = socket.read() as Buffer | null)
        seen = Buffer.concat([seen, chunk]);
      const told = judge(seen);
      if (told !== undefined) resolve(told);
    };
    const gone = (): void => resolve(seen.length === 0 ? "silent" : "malformed");
    const options = { signal: done.signal };
    on(socket, "readable", look, options);
    for (const event of ["end", "error", "close"] as const) on(socket, event, gone, options);
    clock.sleep(deadlineMs, { signal: AbortSignal.any([signal, done.signal]) }).then(gone, gone);
  });
  const told = await beginning;
  done.abort();
  if (told === "http2") socket.unshift(seen);
  return told;
}

function on(
  socket: Socket,
  event: string,
  listener: () => void,
  options: { readonly signal: AbortSignal },
): void {
  socket.on(event, listener);
  options.signal.addEventListener("abort", () => socket.off(event, listener), { once: true });
}

/** Undefined while more is needed. */
function judge(seen: Buffer): Beginning | undefined {
  const known = Math.min(seen.length, preface.length);
  if (!seen.subarray(0, known).equals(preface.subarray(0, known))) return "malformed";
  const head = seen.subarray(preface.length, preface.length + frameHeadBytes);
  if (head.length < frameHeadBytes) return undefined;
  const length = head.readUIntBE(0, 3);
  const isSettings =
    head[3] === settingsType &&
    ((head[4] ?? 0) & ackFlag) === 0 &&
    head.readUInt32BE(5) === 0 &&
    length % 6 === 0 &&
    length <= mostSettingsBytes;
  return isSettings ? "http2" : "malformed";
}
