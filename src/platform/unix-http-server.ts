import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { MeltemiError, messageOf, type ErrorCode } from "../domain/error.js";
import { acceptChecked, type UnixListenOptions } from "./unix-accept.js";

/** What a handler sees of a request; the body is read, and bounded, before. */
export interface HttpRequest {
  readonly method: string;
  /** Without the query. */
  readonly path: string;
  readonly query: URLSearchParams;
  readonly body: Buffer;
  /** Aborted when the client goes away. */
  readonly signal: AbortSignal;
}

/** An answer. A body that is neither text nor bytes is sent as JSON; an async iterable is streamed. */
export interface HttpAnswer {
  readonly status: number;
  readonly contentType?: string;
  readonly body?: unknown;
  readonly stream?: AsyncIterable<string | Uint8Array>;
}

export type HttpHandler = (request: HttpRequest) => Promise<HttpAnswer> | HttpAnswer;

export interface UnixHttpOptions extends UnixListenOptions {
  readonly handler: HttpHandler;
  /** The longest request body; 1 MiB when absent. */
  readonly maxBodyBytes?: number;
}

/**
 * Serves HTTP/1.1 on a Unix socket to peers with accepted credentials. A MeltemiError from the handler becomes its status
 * and `{error, hint}`; anything else 500, and `onError`. The signal ends the open connections too.
 */
export function serveUnixHttp(options: UnixHttpOptions): { readonly ended: Promise<void> } {
  const maxBodyBytes = options.maxBodyBytes ?? 1 << 20;
  const server = createServer({ requestTimeout: 30_000, headersTimeout: 10_000 }, (request, response) => {
    answer(options, maxBodyBytes, request, response).catch((error: unknown) => {
      options.onError(error);
      response.destroy();
    });
  });
  const open = new Set<Socket>();
  const accepting = acceptChecked(options, (socket) => {
    open.add(socket);
    socket.once("close", () => open.delete(socket));
    server.emit("connection", socket);
  });
  const end = (): void => {
    for (const socket of open) socket.destroy();
  };
  options.signal.addEventListener("abort", end, { once: true });
  const ended = accepting.ended.finally(() => options.signal.removeEventListener("abort", end));
  return { ended };
}

async function answer(
  options: UnixHttpOptions,
  maxBodyBytes: number,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const gone = new AbortController();
  response.once("close", () => gone.abort());
  const result = await outcome(options, maxBodyBytes, request, gone.signal);
  if (result.stream !== undefined) {
    response.writeHead(result.status, { "content-type": result.contentType ?? "text/plain; charset=utf-8" });
    response.flushHeaders();
    for await (const chunk of result.stream) {
      if (gone.signal.aborted) return;
      if (!response.write(chunk)) await drained(response, gone.signal);
    }
    response.end();
    return;
  }
  const raw = typeof result.body === "string" || result.body instanceof Uint8Array;
  const body = raw ? result.body : result.body === undefined ? "" : JSON.stringify(result.body);
  const contentType = result.contentType ?? (raw ? "text/plain; charset=utf-8" : "application/json");
  response.writeHead(result.status, {
    "content-type": contentType,
    "content-length": Buffer.byteLength(body),
  });
  response.end(body);
}

async function outcome(
  options: UnixHttpOptions,
  maxBodyBytes: number,
  request: IncomingMessage,
  signal: AbortSignal,
): Promise<HttpAnswer> {
  try {
    const body = await readBody(request, maxBodyBytes);
    const url = new URL(request.url ?? "/", "http://socket");
    const method = request.method ?? "GET";
    return await options.handler({ method, path: url.pathname, query: url.searchParams, body, signal });
  } catch (error) {
    if (error instanceof MeltemiError) {
      const hint = error.hint === undefined ? {} : { hint: error.hint };
      return { status: statusOf(error.code), body: { error: error.message, ...hint } };
    }
    options.onError(error);
    return { status: 500, body: { error: messageOf(error) } };
  }
}

async function readBody(request: IncomingMessage, maxBytes: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.byteLength;
    if (size > maxBytes)
      throw new MeltemiError("bad_input", `The request's body is longer than ${maxBytes} bytes.`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

function drained(response: ServerResponse, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      response.off("drain", done);
      signal.removeEventListener("abort", done);
      resolve();
    };
    response.once("drain", done);
    signal.addEventListener("abort", done, { once: true });
  });
}

/** The HTTP status of each kind of error. */
export function statusOf(code: ErrorCode): number {
  switch (code) {
    case "bad_input":
      return 400;
    case "unauthenticated":
      return 401;
    case "forbidden":
      return 403;
    case "not_found":
      return 404;
    case "conflict":
      return 409;
    case "unsupported":
      return 501;
    case "unavailable":
      return 503;
    case "system":
    case "internal":
      return 500;
  }
}
