/** The discovery streams on gRPC: authentication, back-pressure and metrics around the pure streams. */
import type { ChannelOptions, handleBidiStreamingCall, ServerDuplexStream } from "@grpc/grpc-js";
import { MeltemiError, messageOf } from "../domain/error.js";
import type { DeltaDiscoveryRequest } from "../gen/envoy/service/discovery/v3/ads.js";
import type { Clock } from "../platform/clock.js";
import type { Logger } from "../platform/logger.js";
import type { DeltaStream, DiscoveryHub, SubscriptionInfo } from "./delta-stream.js";
import type { DiscoveryMetrics } from "./discovery-metrics.js";
import { toServiceError } from "../platform/grpc-status.js";
import { isTypeUrl, type TypeUrl } from "./resource.js";
import type { ConfigHub, ConfigStream } from "./waypoint/config-hub.js";
import { type ConfigType, isConfigType } from "./waypoint/config-type.js";
import type { Acknowledgement, DeltaResponse } from "./subscription.js";
import { discoveryClient, encodeResponse, maxRequestBytes, toDeltaRequest } from "./wire.js";

/** Who the caller is known to be. */
export interface NodeIdentity {
  readonly node: string;
  /** `NAMESPACE/NAME` where the caller is a waypoint, which then is told its configuration. */
  readonly waypoint?: string;
}

/** What is known of a call before anything was read from it; any gRPC server call is one. */
export type Caller = Pick<ServerDuplexStream<unknown, unknown>, "metadata" | "getPeer" | "getAuthContext">;

/** Decides from metadata, peer and TLS who calls. An error (returned or thrown) refuses the stream. */
export type Authenticate = (
  call: Caller,
) => NodeIdentity | MeltemiError | Promise<NodeIdentity | MeltemiError>;

export interface DiscoveryServiceOptions {
  readonly hub: DiscoveryHub;
  /** Undefined: no waypoint is served here (a relay). */
  readonly configs?: ConfigHub;
  readonly authenticate: Authenticate;
  readonly metrics: DiscoveryMetrics;
  readonly clock: Clock;
  readonly logger: Logger;
  /** A client has taken or refused a response. */
  readonly onAnswer?: (response: DeltaResponse, answer: Acknowledgement) => void;
}

export interface StreamInfo {
  readonly node: string;
  readonly peer: string;
  /** RFC 3339. */
  readonly since: string;
  readonly dialect: string;
  readonly onDemand: boolean;
  readonly subscriptions: readonly SubscriptionInfo[];
  readonly lastNack: string | undefined;
}

/** Options that a gRPC server with this service needs. */
export const discoveryServerOptions: ChannelOptions = {
  "grpc.max_receive_message_length": maxRequestBytes,
  "grpc.keepalive_time_ms": 30_000,
  "grpc.keepalive_timeout_ms": 10_000,
};

type Call = ServerDuplexStream<DeltaDiscoveryRequest, Buffer>;

/** Register with `server.addService(discoveryServiceDefinition, service.implementation)`. */
export class DiscoveryService {
  readonly implementation: {
    readonly deltaAggregatedResources: handleBidiStreamingCall<DeltaDiscoveryRequest, Buffer>;
  };
  readonly #options: DiscoveryServiceOptions;
  readonly #connections = new Set<Connection>();

  constructor(options: DiscoveryServiceOptions) {
    this.#options = options;
    this.implementation = { deltaAggregatedResources: (call) => void this.#accept(call) };
  }

  /** The open streams, for the admin page. */
  get streams(): readonly StreamInfo[] {
    return [...this.#connections].map((connection) => connection.info);
  }

  /** Ends all streams; clients reconnect (to another replica). */
  close(): void {
    for (const connection of this.#connections) connection.end();
  }

  async #accept(call: Call): Promise<void> {
    const { authenticate, metrics, logger } = this.#options;
    let identity: NodeIdentity | MeltemiError;
    try {
      identity = await authenticate(call);
    } catch (error) {
      identity =
        error instanceof MeltemiError
          ? error
          : new MeltemiError("internal", "authentication failed", { cause: error });
    }
    if (call.cancelled) return;
    if (identity instanceof MeltemiError) {
      metrics.refused.inc({ reason: identity.code });
      logger.warn("discovery stream refused", { peer: call.getPeer(), error: identity.message });
      refuse(call, identity);
      return;
    }
    const connection = new Connection(call, identity, this.#options, () => {
      this.#connections.delete(connection);
      metrics.streams.dec();
    });
    this.#connections.add(connection);
    metrics.streams.inc();
  }
}

function refuse(call: Call, error: unknown): void {
  call.emit("error", toServiceError(error));
}

class Connection {
  readonly #call: Call;
  readonly #identity: NodeIdentity;
  readonly #options: DiscoveryServiceOptions;
  readonly #since: string;
  #stream: DeltaStream | undefined;
  #configs: ConfigStream | undefined;
  #writing = false;
  #closed = false;
  #lastNack: string | undefined;
  /** The response of each type that waits for its answer. */
  readonly #sent = new Map<TypeUrl | ConfigType, DeltaResponse>();

  constructor(call: Call, identity: NodeIdentity, options: DiscoveryServiceOptions, onClose: () => void) {
    this.#call = call;
    this.#identity = identity;
    this.#options = options;
    this.#since = new Date(options.clock.now()).toISOString();
    const close = (): void => {
      if (this.#closed) return;
      this.#closed = true;
      if (this.#stream) options.hub.closeStream(this.#stream);
      if (this.#configs) options.configs?.close(this.#configs);
      onClose();
    };
    call.on("cancelled", close);
    call.on("close", close);
    call.on("error", close);
    call.on("end", () => {
      close();
      call.end();
    });
    call.on("data", (message: DeltaDiscoveryRequest) => this.#receive(message));
  }

  get info(): StreamInfo {
    return {
      node: this.#identity.node,
      peer: this.#call.getPeer(),
      since: this.#since,
      dialect: this.#stream?.client.dialect ?? "",
      onDemand: this.#stream?.client.onDemand ?? false,
      subscriptions: this.#stream?.info ?? [],
      lastNack: this.#lastNack,
    };
  }

  end(): void {
    this.#fail(new MeltemiError("unavailable", "the control plane is shutting down"));
  }

  #receive(message: DeltaDiscoveryRequest): void {
    if (this.#closed) return;
    try {
      this.#stream ??= this.#open(message);
      const type = message.typeUrl;
      if (!isTypeUrl(type) && !isConfigType(type))
        throw new MeltemiError("bad_input", `type "${type.slice(0, 100)}" is not served here`);
      const request = toDeltaRequest(message);
      const acknowledgement = isTypeUrl(type)
        ? this.#stream.request(type, request)
        : this.#configStream(type).request(type, request);
      const answered = this.#sent.get(type);
      if (acknowledgement.type !== "none" && answered?.nonce === message.responseNonce) {
        this.#sent.delete(type);
        this.#options.onAnswer?.(answered, acknowledgement);
      }
      if (acknowledgement.type === "nack") {
        this.#lastNack = `${type}: ${acknowledgement.error}`;
        this.#options.metrics.nacks.inc({ type });
        this.#options.logger.warn("discovery response refused by the client", {
          node: this.#identity.node,
          type,
          error: acknowledgement.error,
        });
      }
    } catch (error) {
      this.#fail(error);
      return;
    }
    this.#pump();
  }

  #open(message: DeltaDiscoveryRequest): DeltaStream {
    if (!message.node)
      throw new MeltemiError("bad_input", "the first request of a stream must name its node");
    const { waypoint } = this.#identity;
    const client = { ...discoveryClient(message.node), ...(waypoint !== undefined && { waypoint }) };
    if (client.node !== this.#identity.node) {
      throw new MeltemiError(
        "forbidden",
        `the caller is node "${this.#identity.node}" and asks as node "${client.node}"`,
      );
    }
    return this.#options.hub.open(client, () => this.#pump());
  }

  /** What a waypoint is told is for that waypoint, as its credentials name it. */
  #configStream(type: ConfigType): ConfigStream {
    const { waypoint } = this.#identity;
    const { configs } = this.#options;
    if (waypoint === undefined || !configs)
      throw new MeltemiError("forbidden", `${type} is told to waypoints, and the caller is none`);
    this.#configs ??= configs.open(waypoint, () => this.#pump());
    return this.#configs;
  }

  #fail(error: unknown): void {
    if (this.#closed) return;
    const { metrics, logger } = this.#options;
    metrics.refused.inc({ reason: error instanceof MeltemiError ? error.code : "internal" });
    logger.warn("discovery stream ended", { node: this.#identity.node, error: messageOf(error) });
    refuse(this.#call, error);
  }

  /**
   * Request policies first, then what they may guard, then the routes that lead there. What a waypoint is no
   * longer told of goes when no route can lead there any more, and its policies after it.
   */
  #next(): DeltaResponse | undefined {
    const stream = this.#stream;
    if (!this.#configs) {
      stream?.release();
      return stream?.next();
    }
    const response = this.#configs.nextPolicies() ?? stream?.next();
    if (response || stream?.blocked) return response;
    const config = this.#configs.next();
    if (config || !this.#configs.settled) return config;
    stream?.release();
    const released = stream?.next();
    if (released || stream?.blocked) return released;
    return this.#configs.nextTakenBack();
  }

  /** One message is with the transport at a time: what the peer does not read stays a set of names. */
  #pump(): void {
    if (this.#writing || this.#closed) return;
    const response = this.#next();
    if (!response) return;
    const { metrics, clock } = this.#options;
    const payload = encodeResponse(response);
    const { type, changedAtMs } = response;
    metrics.pushes.inc({ type });
    metrics.pushBytes.inc({ type }, payload.length);
    if (changedAtMs !== undefined)
      metrics.pushSeconds.observe({ type }, (clock.monotonic() - changedAtMs) / 1000);
    this.#sent.set(type, response);
    this.#writing = true;
    this.#call.write(payload, () => {
      this.#writing = false;
      this.#pump();
    });
  }
}
