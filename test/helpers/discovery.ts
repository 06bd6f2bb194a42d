/** A discovery server on loopback over a compiler, and a bare client that sees every message. */
import { type ClientDuplexStream, credentials, Metadata, Server, ServerCredentials } from "@grpc/grpc-js";
import { Registry } from "prom-client";
import { Compiler } from "../../src/compile/compiler.js";
import { defaultCompileConfig } from "../../src/compile/config.js";
import type { SourceEvent } from "../../src/domain/source-event.js";
import {
  AggregatedDiscoveryServiceClient,
  DeltaDiscoveryRequest,
  type DeltaDiscoveryResponse,
} from "../../src/gen/envoy/service/discovery/v3/ads.js";
import { Address } from "../../src/gen/istio/workload/workload.js";
import { systemClock } from "../../src/platform/clock.js";
import { CompiledSnapshot } from "../../src/xds/compiled-snapshot.js";
import { DiscoveryHub } from "../../src/xds/delta-stream.js";
import { DiscoveryMetrics } from "../../src/xds/discovery-metrics.js";
import {
  type Authenticate,
  discoveryServerOptions,
  DiscoveryService,
} from "../../src/xds/discovery-service.js";
import { addressType, type TypeUrl } from "../../src/xds/resource.js";
import { ConfigHub } from "../../src/xds/waypoint/config-hub.js";
import type { ConfigType } from "../../src/xds/waypoint/config-type.js";
import { discoveryServiceDefinition } from "../../src/xds/wire.js";
import { eventually } from "./eventually.js";
import { RecordingLogger } from "./recording-logger.js";

/** Takes the node at its word: `NODE` in the metadata. */
const believe: Authenticate = (call) => ({ node: call.metadata.get("node").join("") });

export class DiscoveryServer {
  readonly compiler = new Compiler(defaultCompileConfig);
  readonly snapshot = new CompiledSnapshot();
  readonly hub = new DiscoveryHub(this.snapshot, () => systemClock.monotonic());
  readonly configs = new ConfigHub(() => systemClock.monotonic());
  readonly metrics = new DiscoveryMetrics(new Registry());
  readonly logger = new RecordingLogger();
  readonly service: DiscoveryService;
  readonly server = new Server(discoveryServerOptions);
  port = 0;

  constructor(authenticate: Authenticate = believe) {
    const { hub, configs, metrics, logger } = this;
    this.service = new DiscoveryService({ hub, configs, authenticate, metrics, logger, clock: systemClock });
    this.server.addService(discoveryServiceDefinition, this.service.implementation);
  }

  async listen(port = 0): Promise<this> {
    this.port = await new Promise<number>((resolve, reject) => {
      this.server.bindAsync(`127.0.0.1:${port}`, ServerCredentials.createInsecure(), (error, bound) => {
        if (error) reject(error);
        else resolve(bound);
      });
    });
    return this;
  }

  apply(...events: readonly SourceEvent[]): void {
    const change = this.compiler.apply(events);
    const announce = this.configs.applyChange(change);
    this.snapshot.applyChange(change);
    announce();
  }

  connect(node: string, options: { readonly agent?: string; readonly onDemand?: boolean } = {}): BareClient {
    return new BareClient(this.port, node, options.agent ?? "meltemi-proxy", options.onDemand ?? true);
  }

  close(): void {
    this.server.forceShutdown();
    this.hub.close();
  }
}

/** Sends what it is told, keeps what it gets; acknowledges unless told otherwise. */
export class BareClient {
  readonly responses: DeltaDiscoveryResponse[] = [];
  readonly stream: ClientDuplexStream<DeltaDiscoveryRequest, DeltaDiscoveryResponse>;
  acknowledge = true;
  error: (Error & { code?: number }) | undefined;
  readonly #client: AggregatedDiscoveryServiceClient;
  readonly #node: DeltaDiscoveryRequest["node"];
  #first = true;

  constructor(port: number, node: string, agent: string, onDemand: boolean) {
    this.#client = new AggregatedDiscoveryServiceClient(`127.0.0.1:${port}`, credentials.createInsecure(), {
      "grpc.max_receive_message_length": 200 * 1024 * 1024,
    });
    this.#node = {
      id: `ztunnel~127.0.0.1~${node}.test~test.svc.cluster.local`,
      cluster: "",
      buildVersion: "",
      userAgentName: agent,
      metadata: { NODE_NAME: node, ...(onDemand && { MELTEMI_ON_DEMAND: "true" }) },
    };
    const metadata = new Metadata();
    metadata.set("node", node);
    this.stream = this.#client.deltaAggregatedResources(metadata);
    this.stream.on("error", (error) => (this.error = error));
    this.stream.on("data", (response: DeltaDiscoveryResponse) => {
      this.responses.push(response);
      if (this.acknowledge)
        this.send(response.typeUrl as TypeUrl | ConfigType, { responseNonce: response.nonce });
    });
  }

  send(type: TypeUrl | ConfigType, request: Partial<DeltaDiscoveryRequest>): void {
    const node = this.#first && this.#node ? { node: this.#node } : {};
    this.#first = false;
    this.stream.write(DeltaDiscoveryRequest.fromPartial({ ...node, typeUrl: type, ...request }));
  }

  /** Waits for the first response that has not been taken yet. */
  next(what = "a response"): Promise<DeltaDiscoveryResponse> {
    return eventually(what, () => {
      if (this.error) throw this.error;
      return this.responses.shift();
    });
  }

  close(): void {
    this.stream.cancel();
    this.#client.close();
  }
}

export function namesOf(response: DeltaDiscoveryResponse): string[] {
  return response.resources.map(({ name }) => name).sort();
}

/** The addresses in a response by resource name. */
export function addressesOf(response: DeltaDiscoveryResponse): Map<string, NonNullable<Address["type"]>> {
  const entries = response.resources.map(({ name, resource }) => {
    const { type } = Address.decode(resource?.value ?? Buffer.alloc(0));
    if (resource?.typeUrl !== addressType || !type) throw new Error(`${name} is not an address`);
    return [name, type] as const;
  });
  return new Map(entries);
}
