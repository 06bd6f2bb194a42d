/** The discovery protocol's bytes: requests parsed, responses framed around the shared resources. */
import type { ServiceDefinition } from "@grpc/grpc-js";
import { BinaryWriter } from "@bufbuild/protobuf/wire";
import {
  AggregatedDiscoveryServiceService,
  DeltaDiscoveryRequest,
  type Node,
} from "../gen/envoy/service/discovery/v3/ads.js";
import type { DiscoveryClient } from "./resource.js";
import type { DeltaRequest, DeltaResponse } from "./subscription.js";

/** Largest request taken: a reconnect lists everything that the client holds, and cannot be split. */
export const maxRequestBytes = 200 * 1024 * 1024;

/** `DeltaDiscoveryResponse` by its public field numbers: the resources' bytes are copied as they are. */
export function encodeResponse(response: DeltaResponse): Buffer {
  const parts: Uint8Array[] = [];
  for (const resource of response.resources) {
    parts.push(
      new BinaryWriter()
        .uint32((2 << 3) | 2)
        .uint32(resource.length)
        .finish(),
      resource,
    );
  }
  const tail = new BinaryWriter();
  tail.uint32((4 << 3) | 2).string(response.type);
  tail.uint32((5 << 3) | 2).string(response.nonce);
  for (const name of response.removed) tail.uint32((6 << 3) | 2).string(name);
  parts.push(tail.finish());
  return Buffer.concat(parts);
}

export function toDeltaRequest(message: DeltaDiscoveryRequest): DeltaRequest {
  return {
    subscribe: message.resourceNamesSubscribe,
    unsubscribe: message.resourceNamesUnsubscribe,
    initialVersions: new Map(Object.entries(message.initialResourceVersions)),
    nonce: message.responseNonce,
    error: message.errorDetail?.message,
  };
}

function metadataText(node: Node, key: string): string {
  const value: unknown = node.metadata?.[key];
  return typeof value === "string" ? value : "";
}

/** Our own programs by their user agent; everything else is taken to know ambient's types only. */
const ownAgents: ReadonlySet<string> = new Set(["meltemi-proxy", "meltemi-node"]);

export function discoveryClient(node: Node): DiscoveryClient {
  return {
    node: metadataText(node, "NODE_NAME"),
    dialect: ownAgents.has(node.userAgentName) ? "meltemi" : "ambient",
    onDemand: metadataText(node, "MELTEMI_ON_DEMAND") === "true",
  };
}

/** The gRPC method with responses handed over as bytes. */
export const discoveryServiceDefinition = {
  deltaAggregatedResources: {
    path: AggregatedDiscoveryServiceService.deltaAggregatedResources.path,
    requestStream: true,
    responseStream: true,
    requestSerialize: (value: DeltaDiscoveryRequest): Buffer =>
      Buffer.from(DeltaDiscoveryRequest.encode(value).finish()),
    requestDeserialize: (value: Buffer): DeltaDiscoveryRequest => DeltaDiscoveryRequest.decode(value),
    responseSerialize: (value: Buffer): Buffer => value,
    responseDeserialize: (value: Buffer): Buffer => value,
  },
} as const satisfies ServiceDefinition;
