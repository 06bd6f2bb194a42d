import { createServer, type Server } from "node:http";
import { MeltemiError, messageOf } from "../../domain/error.js";
import { metricsContentType, readiness } from "./handlers.js";

/** One page of a TCP listener; the answer's body is text or JSON. */
export type Page = () => Promise<{
  readonly status: number;
  readonly contentType?: string;
  readonly body?: unknown;
}>;

export function metricsPages(metrics: () => Promise<string>): ReadonlyMap<string, Page> {
  const page: Page = async () => ({ status: 200, contentType: metricsContentType, body: await metrics() });
  return new Map([
    ["/metrics", page],
    ["/stats/prometheus", page],
  ]);
}

export function readyPages(waiting: () => readonly string[]): ReadonlyMap<string, Page> {
  return new Map([["/healthz/ready", () => Promise.resolve(readiness(waiting()))]]);
}

export interface ListenAddress {
  readonly host: string;
  readonly port: number;
}

/** Serves pages (reading only) on TCP until the signal aborts. Rejects with `system` where it cannot listen. */
export async function servePages(
  address: ListenAddress,
  pages: ReadonlyMap<string, Page>,
  signal: AbortSignal,
): Promise<void> {
  const server = createServer({ requestTimeout: 10_000, headersTimeout: 5_000 }, (request, response) => {
    const page = pages.get((request.url ?? "").replace(/\?.*$/, ""));
    const reading = request.method === "GET" || request.method === "HEAD";
    if (page === undefined || !reading) {
      response.writeHead(page === undefined ? 404 : 405).end();
      return;
    }
    page().then(
      ({ status, contentType, body }) => {
        const text = typeof body === "string" ? body : JSON.stringify(body);
        response.writeHead(status, { "content-type": contentType ?? "application/json" }).end(text);
      },
      (error: unknown) => response.writeHead(500, { "content-type": "text/plain" }).end(messageOf(error)),
    );
  });
  server.maxConnections = 256;
  await listening(server, address);
  signal.addEventListener("abort", () => server.close(), { once: true });
  if (signal.aborted) server.close();
  signal.addEventListener("abort", () => server.closeAllConnections(), { once: true });
}

function listening(server: Server, address: ListenAddress): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", (cause) =>
      reject(
        new MeltemiError(
          "system",
          `cannot listen at ${address.host} port ${address.port}: ${messageOf(cause)}`,
          { cause },
        ),
      ),
    );
    server.listen({ host: address.host, port: address.port }, resolve);
  });
}
