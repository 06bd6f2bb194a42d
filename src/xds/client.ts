/** A delta discovery client: keeps one stream to an upstream, through failures and reconnects. */
import {
  type ChannelCredentials,
  type ChannelOptions,
  type ClientDuplexStream,
  credentials,
  Metadata,
} from "@grpc/grpc-js";
import { MeltemiError, messageOf } from "../domain/error.js";
import {
  AggregatedDiscoveryServiceClient,
  DeltaDiscoveryRequest,
  type DeltaDiscoveryResponse,
  type Node,
} from "../gen/envoy/service/discovery/v3/ads.js";
import type { Clock } from "../platform/clock.js";
import type { Logger } from "../platform/logger.js";
import { backoffMs, type Random } from "../platform/random.js";
import { type DiscoveryUpdate, DiscoveryClientState, type Rejection } from "./client-state.js";
import { isTypeUrl, type TypeUrl } from "./resource.js";

/** Where and how to connect; asked for anew at each attempt, so that rotated files are read. */
export interface Upstream {
  /** A gRPC target: `dns:HOST:PORT`, `HOST:PORT` or `unix:PATH`. */
  readonly target: string;
  readonly credentials: ChannelCredentials;
  readonly metadata: Metadata;
  readonly options: ChannelOptions;
}

export interface DiscoveryConsumer {
  /** Takes an update; what it returns is refused (NACK), the rest is taken. Called in the order of arrival. */
  update(update: DiscoveryUpdate): readonly Rejection[];
  /** The stream has had its first response. */
  connected(): void;
  disconnected(error: MeltemiError): void;
}

export interface DiscoveryClientOptions {
  readonly node: Node;
  readonly upstream: () => Promise<Upstream>;
  readonly consumer: DiscoveryConsumer;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
}

const baseBackoffMs = 50;
const maxBackoffMs = 15_000;

const channelOptions: ChannelOptions = {
  "grpc.max_receive_message_length": 200 * 1024 * 1024,
  "grpc.max_send_message_length": -1,
  "grpc.keepalive_time_ms": 10_000,
  "grpc.keepalive_timeout_ms": 5_000,
  "grpc.enable_retries": 0,
};

/** Read anew each time: the signal changes while we wait. */
function ended(signal: AbortSignal): boolean {
  return signal.aborted;
}

type Stream = ClientDuplexStream<DeltaDiscoveryRequest, DeltaDiscoveryResponse>;

export class DiscoveryClient {
  /** What is wanted and held. Changes made here directly are sent with the next `flush`. */
  readonly state: DiscoveryClientState;
  readonly #options: DiscoveryClientOptions;
  #stream: Stream | undefined;
  #flushing = false;

  constructor(options: DiscoveryClientOptions) {
    this.#options = options;
    this.state = new DiscoveryClientState(options.node);
  }

  /** Asks for a name (`*`: everything). Calls of one turn of the event loop become one request. */
  subscribe(type: TypeUrl, name: string): void {
    this.state.subscribe(type, name);
    this.flush();
  }

  unsubscribe(type: TypeUrl, name: string): void {
    this.state.unsubscribe(type, name);
    this.flush();
  }

  /** Tells the upstream that a consumer further down has refused what was taken here. Lost where there is no stream. */
  reject(type: TypeUrl, message: string): void {
    // 3: INVALID_ARGUMENT. Without a nonce: the response was answered already.
    this.#stream?.write(
      DeltaDiscoveryRequest.fromPartial({ typeUrl: type, errorDetail: { code: 3, message } }),
    );
  }

  /** Sends what changed in `state`, once this turn of the event loop has ended. */
  flush(): void {
    if (this.#flushing || !this.#stream) return;
    this.#flushing = true;
    setImmediate(() => {
      this.#flushing = false;
      if (this.#stream) this.#sendChanges(this.#stream);
    });
  }

  /** Runs until the signal, reconnecting with back-off. Never rejects. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, random, logger, consumer } = this.#options;
    let attempt = 0;
    while (!ended(signal)) {
      const error = await this.#session(signal, () => {
        attempt = -1;
        consumer.connected();
      });
      attempt += 1;
      const delayMs = backoffMs(random, attempt, baseBackoffMs, maxBackoffMs);
      if (ended(signal)) return;
      consumer.disconnected(error);
      logger.warn("discovery stream lost", { error: error.message, retry_in_ms: Math.round(delayMs) });
      await clock.sleep(delayMs, { signal }).catch(() => undefined);
    }
  }

  /** One stream from beginning to end; answers why it ended. */
  async #session(signal: AbortSignal, onFirst: () => void): Promise<MeltemiError> {
    let client: AggregatedDiscoveryServiceClient | undefined;
    try {
      const upstream = await this.#options.upstream();
      client = new AggregatedDiscoveryServiceClient(upstream.target, upstream.credentials, {
        ...channelOptions,
        ...upstream.options,
      });
      return await this.#converse(client.deltaAggregatedResources(upstream.metadata), signal, onFirst);
    } catch (error) {
      return new MeltemiError("unavailable", `no connection to the control plane: ${messageOf(error)}`, {
        cause: error,
      });
    } finally {
      this.#stream = undefined;
      this.state.closed();
      client?.close();
    }
  }

  #converse(stream: Stream, signal: AbortSignal, onFirst: () => void): Promise<MeltemiError> {
    return new Promise((resolve) => {
      let first = true;
      const abort = (): void => stream.cancel();
      const end = (reason: string, cause?: unknown): void => {
        signal.removeEventListener("abort", abort);
        resolve(new MeltemiError("unavailable", reason, { cause }));
      };
      signal.addEventListener("abort", abort, { once: true });
      if (signal.aborted) stream.cancel();
      stream.on("error", (error) => end(messageOf(error), error));
      stream.on("end", () => end("the control plane ended the stream"));
      stream.on("data", (response: DeltaDiscoveryResponse) => {
        if (signal.aborted) return;
        this.#receive(stream, response);
        if (first) onFirst();
        first = false;
      });
      this.#stream = stream;
      this.#sendChanges(stream);
    });
  }

  #sendChanges(stream: Stream): void {
    for (const request of this.state.takeRequests()) stream.write(request);
  }

  #receive(stream: Stream, response: DeltaDiscoveryResponse): void {
    const type = response.typeUrl;
    if (!isTypeUrl(type)) {
      this.#options.logger.warn("discovery response of unknown type ignored", { type });
      return;
    }
    const update = { type, resources: response.resources, removed: response.removedResources };
    let rejections: readonly Rejection[];
    try {
      rejections = this.#options.consumer.update(update);
    } catch (error) {
      rejections = response.resources.map(({ name }) => ({ name, reason: messageOf(error) }));
      this.#options.logger.error("discovery update failed", { type, error: messageOf(error) });
    }
    for (const { name, reason } of rejections)
      this.#options.logger.warn("discovery resource refused", { type, name, reason });
    stream.write(this.state.answer(type, response, rejections));
  }
}

export interface TlsUpstreamOptions {
  readonly target: string;
  /** PEM bundle of roots. */
  readonly roots: Buffer;
  /** The name that the server's certificate must have, where the target does not say it (`unix:`). */
  readonly serverName?: string;
  /** Bearer token, or a client certificate of the mesh. */
  readonly caller: { readonly token: string } | { readonly key: Buffer; readonly certificateChain: Buffer };
  readonly clusterId: string;
}

/** An upstream over TLS with a bearer token or a client certificate. */
export function tlsUpstream(options: TlsUpstreamOptions): Upstream {
  const metadata = new Metadata();
  metadata.set("clusterid", options.clusterId);
  const { caller } = options;
  if ("token" in caller) metadata.set("authorization", `Bearer ${caller.token}`);
  const channelCredentials =
    "token" in caller
      ? credentials.createSsl(options.roots)
      : credentials.createSsl(options.roots, caller.key, caller.certificateChain);
  const name = options.serverName;
  return {
    target: options.target,
    credentials: channelCredentials,
    metadata,
    options:
      name === undefined ? {} : { "grpc.ssl_target_name_override": name, "grpc.default_authority": name },
  };
}

/** An upstream on a Unix socket that the kernel protects; cleartext. */
export function unixUpstream(path: string): Upstream {
  return {
    target: `unix:${path}`,
    credentials: credentials.createInsecure(),
    metadata: new Metadata(),
    options: {},
  };
}
