import type { DestinationRuleObject } from "./destination-rule.js";
import type { ConfigMapObject } from "./mesh-config.js";
import type { KeySetObject, RequestAuthenticationObject } from "./request-authentication.js";
import type { GrpcRouteObject, HttpRouteObject, ReferenceGrantObject } from "./http-route.js";
import type { TelemetryObject } from "./telemetry.js";
import type { VirtualServiceObject } from "./virtual-service.js";

/**
 * The user's objects as Meltemi understands them: parsed once (sources/), complete and valid by
 * construction. Optional Kubernetes fields are resolved to their defaults here, never later.
 */
export interface Meta {
  readonly apiVersion: string;
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
  readonly generation: number;
  readonly labels: ReadonlyMap<string, string>;
  readonly annotations: ReadonlyMap<string, string>;
  /** `creationTimestamp`, RFC 3339; absent in files that do not say. Decides which of two rules is older. */
  readonly createdAt?: string;
}

export interface NamespaceObject {
  readonly kind: "Namespace";
  readonly meta: Meta;
}

export interface ServiceAccountObject {
  readonly kind: "ServiceAccount";
  readonly meta: Meta;
}

export interface NodeObject {
  readonly kind: "Node";
  readonly meta: Meta;
  /** Standalone: the network namespace that plays this node (`meltemi.io/netns`), a name or a path. */
  readonly netns: string | undefined;
  readonly region: string;
  readonly zone: string;
  readonly subzone: string;
  readonly internalIps: readonly string[];
}

export interface ContainerPort {
  readonly name: string | undefined;
  readonly port: number;
  readonly protocol: "TCP" | "UDP" | "SCTP";
}

export interface PodObject {
  readonly kind: "Pod";
  readonly meta: Meta;
  readonly nodeName: string | undefined;
  readonly serviceAccount: string;
  readonly hostNetwork: boolean;
  /** All of `status.podIPs`, `status.podIP` first. */
  readonly ips: readonly string[];
  /** Standalone: `meltemi.io/netns`, a name as in `ip netns` or a path. */
  readonly netns: string | undefined;
  readonly phase: "Pending" | "Running" | "Succeeded" | "Failed" | "Unknown";
  /** Condition Ready; true in standalone where no condition is given. */
  readonly ready: boolean;
  readonly terminating: boolean;
  readonly containerNames: readonly string[];
  readonly ports: readonly ContainerPort[];
  readonly owner: { readonly kind: string; readonly name: string } | undefined;
}

export type AppProtocol = "unknown" | "http" | "http2" | "grpc" | "tcp" | "tls";

export type IpFamily = "IPv4" | "IPv6";

export interface ServicePort {
  readonly name: string | undefined;
  readonly port: number;
  /** A number, or the name of a container port. */
  readonly targetPort: number | string;
  readonly protocol: "TCP" | "UDP" | "SCTP";
  readonly appProtocol: AppProtocol;
}

export interface ServiceObject {
  readonly kind: "Service";
  readonly meta: Meta;
  readonly type: "ClusterIP" | "NodePort" | "LoadBalancer" | "ExternalName";
  readonly externalName: string | undefined;
  /** Empty when headless. At most one of each family, the primary one first. */
  readonly clusterIps: readonly string[];
  /** Address families that the service is offered in, the primary one first; empty: any that its endpoints have. */
  readonly ipFamilies: readonly IpFamily[];
  readonly headless: boolean;
  readonly ports: readonly ServicePort[];
  /** Undefined: endpoints come from EndpointSlices only. */
  readonly selector: ReadonlyMap<string, string> | undefined;
  readonly sessionAffinity: "None" | "ClientIP";
  readonly sessionAffinityTimeoutS: number;
  readonly internalTrafficPolicy: "Cluster" | "Local";
  /** `spec.trafficDistribution`, else the annotation `networking.istio.io/traffic-distribution`. */
  readonly trafficDistribution: "PreferSameZone" | "PreferSameNode" | undefined;
  readonly publishNotReadyAddresses: boolean;
}

export interface SliceEndpoint {
  readonly addresses: readonly string[];
  readonly ready: boolean;
  readonly serving: boolean;
  readonly terminating: boolean;
  readonly nodeName: string | undefined;
  readonly zone: string | undefined;
  /** Name of a Pod in the slice's namespace. */
  readonly podName: string | undefined;
}

export interface EndpointSliceObject {
  readonly kind: "EndpointSlice";
  readonly meta: Meta;
  /** Label `kubernetes.io/service-name`. */
  readonly serviceName: string;
  readonly addressType: "IPv4" | "IPv6" | "FQDN";
  readonly ports: readonly {
    readonly name: string | undefined;
    readonly port: number;
    readonly protocol: "TCP" | "UDP" | "SCTP";
  }[];
  readonly endpoints: readonly SliceEndpoint[];
}

export type StringMatch =
  | { readonly type: "exact"; readonly value: string }
  | { readonly type: "prefix"; readonly value: string }
  | { readonly type: "suffix"; readonly value: string }
  | { readonly type: "presence" };

export interface Cidr {
  readonly address: string;
  readonly length: number;
}

/** A list and its negation: `principals` and `notPrincipals`. Empty lists do not constrain. */
export interface Matches<T> {
  readonly any: readonly T[];
  readonly none: readonly T[];
}

export interface AuthorizationSource {
  readonly principals: Matches<StringMatch>;
  readonly requestPrincipals: Matches<StringMatch>;
  readonly namespaces: Matches<StringMatch>;
  readonly serviceAccounts: Matches<{ readonly namespace: string; readonly name: string }>;
  readonly ipBlocks: Matches<Cidr>;
  readonly remoteIpBlocks: Matches<Cidr>;
}

export interface AuthorizationOperation {
  readonly hosts: Matches<StringMatch>;
  readonly ports: Matches<number>;
  readonly methods: Matches<StringMatch>;
  readonly paths: Matches<StringMatch>;
}

export interface AuthorizationCondition {
  readonly key: string;
  readonly values: Matches<string>;
}

export interface AuthorizationRule {
  /** Alternatives; empty matches any source. */
  readonly from: readonly AuthorizationSource[];
  /** Alternatives; empty matches any operation. */
  readonly to: readonly AuthorizationOperation[];
  /** All must hold. */
  readonly when: readonly AuthorizationCondition[];
}

export interface TargetRef {
  readonly group: string;
  readonly kind: string;
  readonly name: string;
}

export interface AuthorizationPolicyObject {
  readonly kind: "AuthorizationPolicy";
  readonly meta: Meta;
  /** Undefined: the whole namespace (or the mesh, in the root namespace). */
  readonly selector: ReadonlyMap<string, string> | undefined;
  readonly targetRefs: readonly TargetRef[];
  readonly action: "ALLOW" | "DENY" | "AUDIT" | "CUSTOM";
  readonly provider: string | undefined;
  /** Undefined rules of an ALLOW allow nothing; a rule with nothing in it matches everything. */
  readonly rules: readonly AuthorizationRule[];
  /** `istio.io/dry-run: "true"`. */
  readonly dryRun: boolean;
}

export type MtlsMode = "UNSET" | "DISABLE" | "PERMISSIVE" | "STRICT";

export interface PeerAuthenticationObject {
  readonly kind: "PeerAuthentication";
  readonly meta: Meta;
  readonly selector: ReadonlyMap<string, string> | undefined;
  readonly mode: MtlsMode;
  readonly portModes: ReadonlyMap<number, MtlsMode>;
}

export interface ServiceEntryPort {
  readonly name: string;
  readonly number: number;
  readonly targetPort: number;
  readonly protocol: "TCP" | "UDP" | "SCTP";
  readonly appProtocol: AppProtocol;
}

export interface WorkloadEntrySpec {
  /** An IP address, a DNS name, or empty. */
  readonly address: string;
  readonly ports: ReadonlyMap<string, number>;
  readonly labels: ReadonlyMap<string, string>;
  readonly network: string;
  readonly locality: string;
  readonly weight: number;
  readonly serviceAccount: string;
}

export interface ServiceEntryObject {
  readonly kind: "ServiceEntry";
  readonly meta: Meta;
  readonly hosts: readonly string[];
  readonly addresses: readonly string[];
  readonly ports: readonly ServiceEntryPort[];
  readonly location: "MESH_EXTERNAL" | "MESH_INTERNAL";
  readonly resolution: "NONE" | "STATIC" | "DNS" | "DNS_ROUND_ROBIN" | "DYNAMIC_DNS";
  readonly endpoints: readonly WorkloadEntrySpec[];
  readonly workloadSelector: ReadonlyMap<string, string> | undefined;
  readonly subjectAltNames: readonly string[];
}

export interface WorkloadEntryObject {
  readonly kind: "WorkloadEntry";
  readonly meta: Meta;
  readonly spec: WorkloadEntrySpec;
}

export interface GatewayListener {
  readonly name: string;
  readonly port: number;
  /** `HTTP`, `HBONE`, or another implementation's word. */
  readonly protocol: string;
}

export interface GatewayObject {
  readonly kind: "Gateway";
  readonly meta: Meta;
  readonly className: string;
  /** Those it has (`status`), else those it asks for (`spec`): addresses and host names. */
  readonly addresses: readonly string[];
  readonly listeners: readonly GatewayListener[];
  /** Standalone: the network namespace that a waypoint runs in (`meltemi.io/netns`), a name or a path. */
  readonly netns: string | undefined;
}

export type MeshObject =
  | NamespaceObject
  | ServiceAccountObject
  | NodeObject
  | PodObject
  | ServiceObject
  | EndpointSliceObject
  | AuthorizationPolicyObject
  | PeerAuthenticationObject
  | ServiceEntryObject
  | WorkloadEntryObject
  | GatewayObject
  | HttpRouteObject
  | GrpcRouteObject
  | ReferenceGrantObject
  | RequestAuthenticationObject
  | KeySetObject
  | ConfigMapObject
  | TelemetryObject
  | VirtualServiceObject
  | DestinationRuleObject;

export type MeshKind = MeshObject["kind"];
