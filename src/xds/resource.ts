/**
 * What a discovery stream serves, and from where. The control plane's compiled snapshot and the
 * agent's relay cache are both a `ResourceSource`; the streams (stream.ts) do not know which.
 */

export const addressType = "type.googleapis.com/istio.workload.Address";
export const workloadType = "type.googleapis.com/istio.workload.Workload";
export const authorizationType = "type.googleapis.com/istio.security.Authorization";

export type TypeUrl = typeof addressType | typeof workloadType | typeof authorizationType;

/** In the order in which one change is sent on a stream: policies before the workloads that name them. */
export const typeUrls: readonly TypeUrl[] = [authorizationType, addressType, workloadType];

export function isTypeUrl(text: string): text is TypeUrl {
  return (typeUrls as readonly string[]).includes(text);
}

/** `meltemi`: with our extensions. `ambient`: what a proxy that knows only ambient's types is sent. */
export type Dialect = "meltemi" | "ambient";

/** A range of addresses under which a service can be asked for: one alias would not do. */
export interface AddressRange {
  readonly network: string;
  readonly address: string;
  /** Bits of the prefix. */
  readonly length: number;
}

/** One resource, immutable. A new content is a new value. */
export interface XdsResource {
  readonly kind: "workload" | "service" | "authorization";
  /** Workload uid, `NAMESPACE/HOSTNAME`, or a policy's `NAMESPACE/NAME`. */
  readonly name: string;
  /** `NETWORK/IP`, other names it can be asked for by. */
  readonly aliases: readonly string[];
  readonly ranges: readonly AddressRange[];
  readonly namespace: string;
  /** A workload's node; empty where it has none. */
  readonly node: string;
  /** A workload's services by key. */
  readonly services: readonly string[];
  /** Policies that a workload names. */
  readonly policies: readonly string[];
  /** An authorization's scope; undefined for others. */
  readonly scope: "global" | "namespace" | "selector" | undefined;
  /**
   * The serialized `envoy.service.discovery.v3.Resource` (name, aliases, version and Any), made once and
   * shared by all streams. Undefined: a client of this type and dialect is not sent it at all.
   */
  encoded(type: TypeUrl, dialect: Dialect): Buffer | undefined;
  /** Hash of the content in that dialect; the same content has the same version on every replica. */
  version(type: TypeUrl, dialect: Dialect): string;
}

/** The answer to a name. `unknown` is not `absent`: nothing is told to the client until it is known. */
export type Lookup =
  | { readonly state: "found"; readonly resource: XdsResource }
  | { readonly state: "absent" }
  | { readonly state: "unknown" };

/** Who asks, as far as the answer depends on it. */
export interface DiscoveryClient {
  /** Metadata `NODE_NAME`; empty where the client named none. */
  readonly node: string;
  readonly dialect: Dialect;
  /** Metadata `MELTEMI_ON_DEMAND`: authorizations are narrowed to what concerns the node's pods. */
  readonly onDemand: boolean;
  /** `NAMESPACE/NAME` of the waypoint that asks, as its credentials say: `*` then means what concerns it. */
  readonly waypoint?: string;
}

/** Services and workloads by name that a waypoint is now told of, and is no longer. */
export interface ScopeChange {
  readonly waypoint: string;
  readonly added: readonly string[];
  readonly removed: readonly string[];
}

export interface ResourceChange {
  readonly before: XdsResource | undefined;
  readonly after: XdsResource | undefined;
}

/** One consistent change of a source. */
export interface SourceChange {
  readonly resources: readonly ResourceChange[];
  /** Names whose `lookup` may now answer differently, beyond the names and aliases of `resources`. */
  readonly names: readonly string[];
  /** Authorizations that came into or went out of a scope (policy-scope.ts) though they did not change themselves. */
  readonly scoped: readonly { readonly scope: string; readonly authorizations: readonly string[] }[];
  readonly waypoints: readonly ScopeChange[];
  /** The first complete state: streams that waited for it may now be answered. */
  readonly becameReady: boolean;
}

export interface ResourceSource {
  /** False until the first complete state: until then nothing is answered. */
  readonly ready: boolean;
  /** Resolves a resource's own name or an alias. Deterministic where two resources claim an alias. */
  lookup(type: TypeUrl, name: string): Lookup;
  /** The resource of exactly this name. */
  get(type: TypeUrl, name: string): XdsResource | undefined;
  /** Names of the workloads that belong to a service. */
  dependents(serviceKey: string): Iterable<string>;
  /** Names of the workloads on a node. */
  onNode(node: string): Iterable<string>;
  /** Names of the services and workloads that a waypoint is told of. */
  namedTo(waypoint: string): Iterable<string>;
  /** Names of all resources of a type. */
  names(type: TypeUrl): Iterable<string>;
  /** Whether a wildcard subscription of this client includes the authorization. */
  inScope(client: DiscoveryClient, authorization: XdsResource): boolean;
  /** Tells of every change until the returned function is called. */
  onChange(listener: (change: SourceChange) => void): () => void;
  /**
   * The first stream subscribed to a name, or the last one left it (`*` for the wildcard). A relay
   * passes this on; a control plane knows everything and does nothing.
   */
  demand(type: TypeUrl, name: string, wanted: boolean): void;
}
