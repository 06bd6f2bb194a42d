/**
 * What the compiler tells a node, in the mesh's words. xds/encode turns these into ambient's
 * protobuf types, one resource for one value.
 */
import type { AddressKey, NodeName, PolicyKey, ServiceKey, WorkloadUid } from "../domain/ids.js";
import type { ObjectRef } from "../domain/problem.js";
import type { CompiledWaypointConfig, WaypointConfigKind } from "./waypoint/config.js";
import type { AppProtocol, Cidr, StringMatch } from "../domain/objects.js";

export interface CompiledPort {
  readonly servicePort: number;
  readonly targetPort: number;
  readonly appProtocol: AppProtocol;
}

export interface WaypointAddress {
  readonly destination:
    | { readonly type: "hostname"; readonly namespace: string; readonly hostname: string }
    | { readonly type: "address"; readonly network: string; readonly ip: string };
  readonly hbonePort: number;
}

export interface CompiledWorkload {
  readonly type: "workload";
  readonly uid: WorkloadUid;
  readonly name: string;
  readonly namespace: string;
  readonly ips: readonly string[];
  readonly network: string;
  readonly tunnel: "none" | "hbone";
  readonly trustDomain: string;
  readonly serviceAccount: string;
  readonly waypoint: WaypointAddress | undefined;
  /** `NAMESPACE/NAME` of the waypoint that is to serve it. */
  readonly servedBy: string | undefined;
  /** `NAMESPACE/NAME` of the waypoint that it runs. */
  readonly waypointInstance?: string;
  readonly node: NodeName | undefined;
  readonly canonicalName: string;
  readonly canonicalRevision: string;
  readonly workloadType: "deployment" | "cronjob" | "pod" | "job";
  readonly workloadName: string;
  readonly services: ReadonlyMap<ServiceKey, readonly CompiledPort[]>;
  /** Policies that select this workload by label. */
  readonly policies: readonly PolicyKey[];
  readonly healthy: boolean;
  readonly clusterId: string;
  readonly locality: { readonly region: string; readonly zone: string; readonly subzone: string };
  /** Not found by its address, which is its host's or another workload's; an endpoint all the same. */
  readonly hostNetwork: boolean;
  readonly capacity: number | undefined;
}

export interface CompiledService {
  readonly type: "service";
  readonly key: ServiceKey;
  readonly name: string;
  readonly namespace: string;
  readonly hostname: string;
  readonly addresses: readonly {
    readonly network: string;
    readonly ip: string;
    readonly length: number | undefined;
  }[];
  /** Families of its endpoints' addresses that connections may go to. */
  readonly ipFamilies: "any" | "ipv4" | "ipv6" | "dual";
  readonly ports: readonly CompiledPort[];
  readonly subjectAltNames: readonly string[];
  readonly waypoint: WaypointAddress | undefined;
  /** `NAMESPACE/NAME` of the waypoint that is to serve it. */
  readonly servedBy: string | undefined;
  readonly loadBalancing:
    | {
        readonly scopes: readonly ("region" | "zone" | "subzone" | "node" | "cluster" | "network")[];
        readonly mode: "strict" | "failover" | "passthrough" | "unspecified";
        readonly allowUnhealthy: boolean;
      }
    | undefined;
  readonly clientIpAffinity: { readonly timeoutS: number } | undefined;
  readonly headless: boolean;
  /** Of several services with its hostname, in whatever namespaces, the one that the name means. */
  readonly canonical: boolean;
  readonly ingressUseWaypoint: boolean;
}

/** Every field that is set must hold; within a field any entry suffices, within a `not` field none may. */
export interface CompiledMatch {
  readonly namespaces: readonly StringMatch[];
  readonly notNamespaces: readonly StringMatch[];
  readonly serviceAccounts: readonly { readonly namespace: string; readonly name: string }[];
  readonly notServiceAccounts: readonly { readonly namespace: string; readonly name: string }[];
  readonly principals: readonly StringMatch[];
  readonly notPrincipals: readonly StringMatch[];
  readonly sourceIps: readonly Cidr[];
  readonly notSourceIps: readonly Cidr[];
  readonly remoteIps: readonly Cidr[];
  readonly notRemoteIps: readonly Cidr[];
  readonly destinationIps: readonly Cidr[];
  readonly notDestinationIps: readonly Cidr[];
  readonly destinationPorts: readonly number[];
  readonly notDestinationPorts: readonly number[];
}

export interface CompiledAuthorization {
  readonly type: "authorization";
  readonly key: PolicyKey;
  readonly name: string;
  readonly namespace: string;
  readonly scope: "global" | "namespace" | "selector";
  readonly action: "allow" | "deny" | "audit";
  readonly dryRun: boolean;
  /** Rules, of clauses, of matches: any rule, all of its clauses, any match of a clause. */
  readonly rules: readonly (readonly (readonly CompiledMatch[])[])[];
  /** The user's object, as "KIND/NAMESPACE/NAME". */
  readonly sourceObject: string;
}

export type CompiledAddress = CompiledWorkload | CompiledService;

/** What changed by one batch, enough to push it to the nodes that asked. */
export interface CompiledChange {
  readonly addresses: readonly CompiledAddress[];
  readonly removedAddresses: readonly (WorkloadUid | ServiceKey)[];
  readonly authorizations: readonly CompiledAuthorization[];
  readonly removedAuthorizations: readonly PolicyKey[];
  /** For waypoints. */
  readonly configs: readonly CompiledWaypointConfig[];
  readonly removedConfigs: readonly { readonly kind: WaypointConfigKind; readonly name: string }[];
}

/** A condition of an object's status, as in Kubernetes. */
export interface StatusCondition {
  /** `Accepted`: understood and taken. `Programmed`: in force. `ResolvedRefs`: all that it names is there. */
  readonly type: "Accepted" | "Programmed" | "ResolvedRefs";
  readonly status: boolean;
  /** One word, for programs. */
  readonly reason: string;
  /** A sentence, for people. */
  readonly message: string;
}

export interface ObjectStatus {
  readonly object: ObjectRef;
  /** The generation of the object that the conditions speak of. */
  readonly generation: number;
  readonly conditions: readonly StatusCondition[];
}

/** Names under which a resource can be asked for besides its own. */
export type Alias = AddressKey;
