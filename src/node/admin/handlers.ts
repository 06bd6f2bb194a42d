import { MeltemiError } from "../../domain/error.js";
import { parseLogLevel, type Logger } from "../../platform/logger.js";
import { callUnixHttp } from "../../platform/unix-http-client.js";
import type { HttpAnswer, HttpHandler, HttpRequest } from "../../platform/unix-http-server.js";

export interface AdminParts {
  readonly log: Logger;
  /** What the node still waits for; empty when it is ready. */
  readonly waiting: () => readonly string[];
  readonly status: () => Promise<unknown>;
  /** The merged Prometheus text. */
  readonly metrics: () => Promise<string>;
  readonly proxyAdminSocket: string;
  readonly proxyControlSocket: string;
}

export const metricsContentType = "text/plain; version=0.0.4; charset=utf-8";
const proxyPrefix = "/proxy";

export function readiness(waiting: readonly string[]): HttpAnswer {
  return waiting.length === 0
    ? { status: 200, body: { ready: true } }
    : { status: 503, body: { ready: false, waiting } };
}

/** `node-admin.sock`: reading only. */
export function adminHandler(parts: AdminParts): HttpHandler {
  return async (request) => {
    requireMethod(request, "GET");
    switch (request.path) {
      case "/ready":
        return readiness(parts.waiting());
      case "/metrics":
        return { status: 200, contentType: metricsContentType, body: await parts.metrics() };
      case "/status":
        return { status: 200, body: await parts.status() };
      case "/logging":
        return { status: 200, body: { level: parts.log.level } };
      default:
        return passOn(request, parts.proxyAdminSocket);
    }
  };
}

/** `node-control.sock`: changing. */
export function controlHandler(parts: AdminParts): HttpHandler {
  return (request) => {
    requireMethod(request, "POST");
    if (request.path !== "/logging") return passOn(request, parts.proxyControlSocket);
    parts.log.level = parseLogLevel(levelOf(request.body));
    parts.log.info("log level set", { log_level: parts.log.level });
    return { status: 200, body: { level: parts.log.level } };
  };
}

function requireMethod({ method, path }: HttpRequest, wanted: "GET" | "POST"): void {
  if (method === wanted) return;
  throw new MeltemiError("bad_input", `${method} ${path}: this socket takes ${wanted} only`, {
    hint: wanted === "GET" ? "changes go to node-control.sock" : "reading goes to node-admin.sock",
  });
}

function levelOf(body: Buffer): string {
  try {
    const value = JSON.parse(body.toString("utf8")) as { level?: unknown } | null;
    if (typeof value?.level === "string") return value.level;
  } catch {
    // Falls through to the one message.
  }
  throw new MeltemiError("bad_input", "the body names no log level", { hint: 'expected {"level":"debug"}' });
}

/** `/proxy/…` goes to the data plane's own socket of the same kind. */
async function passOn(request: HttpRequest, socketPath: string): Promise<HttpAnswer> {
  if (!request.path.startsWith(`${proxyPrefix}/`)) {
    throw new MeltemiError("not_found", `there is no ${request.path} here`);
  }
  const query = request.query.size === 0 ? "" : `?${request.query.toString()}`;
  const { status, contentType, body } = await callUnixHttp({
    socketPath,
    method: request.method,
    path: `${request.path.slice(proxyPrefix.length)}${query}`,
    body: request.body,
    signal: request.signal,
  });
  return { status, contentType, body };
}
