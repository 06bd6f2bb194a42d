/** The Kubernetes API over HTTPS, with the connections kept. */
import {
  Agent as HttpAgent,
  request as httpRequest,
  type IncomingMessage,
  type RequestOptions,
} from "node:http";
import { Agent as HttpsAgent, request as httpsRequest } from "node:https";
import { MeltemiError, messageOf } from "../../domain/error.js";
import type { Clock } from "../../platform/clock.js";
import { KubeStatusError, type KubeApi, type KubeRequest } from "../../platform/kube-api.js";
import { inClusterAccess, kubeconfigAccess, type KubeAccess } from "./access.js";
import { jsonLines } from "./json-lines.js";

/** The largest answer that is read: a page of a list, or one object (etcd keeps no object above 1.5 MiB). */
const largestAnswerBytes = 256 << 20;
const defaultTimeoutMs = 30_000;
/** A peer that has vanished is found out by the kernel's probes, also on a watch where nothing happens. */
const keepAliveMs = 15_000;
/** Certificates and CA of the access are read anew for connections made after this. */
const tlsFreshMs = 60_000;

/**
 * A client of the API server: of a kubeconfig's, or of the cluster whose pod this process is.
 * @param component the part of the mesh, for the API server's audit log
 * @throws MeltemiError where there is no access to one
 */
export async function openKubeApi(
  kubeconfig: string | undefined,
  { clock, version }: { readonly clock: Pick<Clock, "monotonic">; readonly version: string },
  component: string,
): Promise<KubeApi> {
  const access =
    kubeconfig === undefined ? inClusterAccess(process.env, clock) : await kubeconfigAccess(kubeconfig);
  return new HttpKubeApi(access, clock, `meltemi-${component}/${version}`);
}

interface Connections {
  readonly agent: HttpAgent | HttpsAgent;
  readonly madeMs: number;
}

export class HttpKubeApi implements KubeApi {
  #connections: Connections | undefined;

  constructor(
    private readonly access: KubeAccess,
    private readonly clock: Pick<Clock, "monotonic">,
    private readonly userAgent: string,
  ) {}

  async call(request: KubeRequest): Promise<unknown> {
    const response = await this.#send(request, request.timeoutMs ?? defaultTimeoutMs);
    const text = await readText(response);
    // Health checks answer in plain words.
    if (!(response.headers["content-type"] ?? "").includes("json")) return text;
    try {
      return text === "" ? undefined : (JSON.parse(text) as unknown);
    } catch (error) {
      throw unavailable(request, `the answer is not JSON: ${messageOf(error)}`, error);
    }
  }

  async *stream(request: KubeRequest): AsyncIterable<unknown> {
    const response = await this.#send(request, request.timeoutMs);
    try {
      yield* jsonLines(response);
    } catch (error) {
      if (request.signal?.aborted === true) return;
      throw error instanceof MeltemiError ? error : unavailable(request, messageOf(error), error);
    } finally {
      response.destroy();
    }
  }

  /** Resolves with an answer that is a success. */
  async #send(request: KubeRequest, timeoutMs: number | undefined): Promise<IncomingMessage> {
    const { server, serverName } = this.access;
    const [agent, headers] = await Promise.all([this.#agent(), this.access.headers()]);
    const query = new URLSearchParams(request.query).toString();
    const signals = [
      ...(request.signal === undefined ? [] : [request.signal]),
      ...(timeoutMs === undefined ? [] : [AbortSignal.timeout(timeoutMs)]),
    ];
    const body = request.body === undefined ? undefined : JSON.stringify(request.body);
    const options: RequestOptions & { servername?: string } = {
      agent,
      method: request.method,
      host: server.hostname.replace(/^\[(.*)\]$/, "$1"),
      port: server.port === "" ? (server.protocol === "https:" ? 443 : 80) : server.port,
      path: `${server.pathname.replace(/\/$/, "")}${request.path}${query === "" ? "" : `?${query}`}`,
      headers: {
        ...headers,
        accept: "application/json",
        "user-agent": this.userAgent,
        ...(body !== undefined && {
          "content-type": request.contentType ?? "application/json",
          "content-length": Buffer.byteLength(body),
        }),
      },
      ...(serverName !== undefined && { servername: serverName }),
      ...(signals.length > 0 && { signal: AbortSignal.any(signals) }),
    };
    const response = await new Promise<IncomingMessage>((resolve, reject) => {
      const sent = (server.protocol === "https:" ? httpsRequest : httpRequest)(options, resolve);
      sent.on("error", (error) => reject(unavailable(request, messageOf(error), error)));
      sent.end(body);
    });
    const { statusCode = 0 } = response;
    if (statusCode >= 200 && statusCode < 300) return response;
    throw await refusal(request, statusCode, response);
  }

  async #agent(): Promise<HttpAgent | HttpsAgent> {
    const nowMs = this.clock.monotonic();
    if (this.#connections !== undefined && nowMs - this.#connections.madeMs < tlsFreshMs)
      return this.#connections.agent;
    const kept = { keepAlive: true, keepAliveMsecs: keepAliveMs };
    const agent =
      this.access.server.protocol === "https:"
        ? new HttpsAgent({ ...kept, ...(await this.access.tls()) })
        : new HttpAgent(kept);
    // Connections in use end by themselves; those that wait are not used again.
    const before = this.#connections?.agent;
    for (const sockets of Object.values(before?.freeSockets ?? {}))
      for (const socket of sockets ?? []) socket.destroy();
    this.#connections = { agent, madeMs: nowMs };
    return agent;
  }
}

function unavailable(request: KubeRequest, why: string, cause: unknown): MeltemiError {
  return new MeltemiError("unavailable", `${request.method} ${request.path}: ${why}`, { cause });
}

async function readText(response: IncomingMessage): Promise<string> {
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const part of response as AsyncIterable<Buffer>) {
    bytes += part.length;
    if (bytes > largestAnswerBytes) {
      response.destroy();
      throw new MeltemiError("unavailable", `the answer is longer than ${largestAnswerBytes} bytes`);
    }
    parts.push(part);
  }
  return Buffer.concat(parts).toString("utf8");
}

async function refusal(
  request: KubeRequest,
  status: number,
  response: IncomingMessage,
): Promise<MeltemiError> {
  const text = await readText(response).catch(() => "");
  let told: { readonly message?: unknown; readonly reason?: unknown } = {};
  try {
    const parsed: unknown = JSON.parse(text);
    if (typeof parsed === "object" && parsed !== null) told = parsed;
  } catch {
    // Not a Status: a proxy's page, or nothing at all.
  }
  const message = typeof told.message === "string" ? told.message : text.slice(0, 200).trim();
  const retryAfterS = Number(response.headers["retry-after"]);
  return new KubeStatusError(
    status,
    typeof told.reason === "string" ? told.reason : "",
    `${request.method} ${request.path}: ${status} ${message || "(no message)"}`,
    Number.isFinite(retryAfterS) && retryAfterS > 0 ? Math.min(retryAfterS, 60) * 1000 : undefined,
  );
}
