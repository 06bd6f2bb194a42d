import { request as httpRequest, type IncomingMessage } from "node:http";
import { MeltemiError, messageOf } from "../domain/error.js";

export interface UnixHttpCall {
  readonly socketPath: string;
  readonly method?: string;
  /** With the query. */
  readonly path: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string | Uint8Array;
  /** For the whole exchange, or for the head of the answer when streaming. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
  /** The longest answer; 64 MiB when absent. */
  readonly maxBytes?: number;
}

export interface UnixHttpResponse {
  readonly status: number;
  readonly contentType: string;
  readonly body: Buffer;
}

const defaultTimeoutMs = 10_000;

/**
 * One request over a Unix socket.
 * @throws MeltemiError `unavailable` when nobody serves the socket or it does not answer in time, `system` otherwise
 */
export async function callUnixHttp(call: UnixHttpCall): Promise<UnixHttpResponse> {
  const maxBytes = call.maxBytes ?? 64 << 20;
  const timeout = AbortSignal.timeout(call.timeoutMs ?? defaultTimeoutMs);
  const message = await open(call, timeout);
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of message as AsyncIterable<Buffer>) {
      size += chunk.byteLength;
      if (size > maxBytes) throw new Error(`the answer is longer than ${maxBytes} bytes`);
      chunks.push(chunk);
    }
  } catch (error) {
    throw failure(call, error, timeout);
  }
  return {
    status: message.statusCode ?? 0,
    contentType: message.headers["content-type"] ?? "",
    body: Buffer.concat(chunks),
  };
}

/** The answer's body as it comes, for `logs -f` and pass-through. End it with `call.signal` or by leaving the loop. */
export async function streamUnixHttp(
  call: UnixHttpCall,
): Promise<{ readonly status: number; readonly contentType: string; readonly body: AsyncIterable<Buffer> }> {
  const untilHead = new AbortController();
  const timer = setTimeout(
    () => untilHead.abort(new DOMException("timed out", "TimeoutError")),
    call.timeoutMs ?? defaultTimeoutMs,
  );
  try {
    const message = await open(call, untilHead.signal);
    return {
      status: message.statusCode ?? 0,
      contentType: message.headers["content-type"] ?? "",
      body: message,
    };
  } finally {
    clearTimeout(timer);
  }
}

/** A call whose answer is JSON. @throws MeltemiError also when the status is not 2xx (with the answer's own error). */
export async function callUnixJson(call: UnixHttpCall): Promise<unknown> {
  const { status, body } = await callUnixHttp(call);
  const where = `${call.method ?? "GET"} ${call.path} on ${call.socketPath}`;
  let value: unknown;
  try {
    value = JSON.parse(body.toString()) as unknown;
  } catch (error) {
    throw new MeltemiError("system", `${where} answered ${status} with something that is not JSON.`, {
      cause: error,
    });
  }
  if (status >= 200 && status < 300) return value;
  const { error, hint } = (typeof value === "object" && value !== null ? value : {}) as {
    error?: unknown;
    hint?: unknown;
  };
  throw new MeltemiError(
    status === 404 ? "not_found" : status === 503 ? "unavailable" : "system",
    typeof error === "string" ? error : `${where} answered ${status}.`,
    typeof hint === "string" ? { hint } : {},
  );
}

function open(call: UnixHttpCall, timeout: AbortSignal): Promise<IncomingMessage> {
  const signal = call.signal === undefined ? timeout : AbortSignal.any([call.signal, timeout]);
  return new Promise((resolve, reject) => {
    const length = call.body === undefined ? {} : { "content-length": String(Buffer.byteLength(call.body)) };
    const outgoing = httpRequest({
      socketPath: call.socketPath,
      method: call.method ?? "GET",
      path: call.path,
      headers: { host: "localhost", ...length, ...call.headers },
      agent: false,
      signal,
    });
    outgoing.once("response", resolve);
    outgoing.once("error", (error) => reject(failure(call, error, timeout)));
    outgoing.end(call.body);
  });
}

function failure(call: UnixHttpCall, error: unknown, timeout: AbortSignal): MeltemiError {
  const where = `${call.method ?? "GET"} ${call.path} on ${call.socketPath}`;
  if (timeout.aborted)
    return new MeltemiError(
      "unavailable",
      `${where}: no answer within ${call.timeoutMs ?? defaultTimeoutMs} ms.`,
      { hint: "The process is there and does not answer: is it stopped, or overloaded?", cause: error },
    );
  const code = (error as NodeJS.ErrnoException).code;
  if (code === "ENOENT" || code === "ECONNREFUSED") {
    return new MeltemiError("unavailable", `${where}: nobody serves this socket.`, {
      hint: "Is the process running, and is this its run directory?",
      cause: error,
    });
  }
  return new MeltemiError("system", `${where}: ${messageOf(error)}`, { cause: error });
}
