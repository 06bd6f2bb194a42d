/** What a waypoint is told, in the mesh's words. xds/encode turns these into `meltemi.v1` messages, one for one. */
import type { TrafficSettings } from "../../domain/destination-rule.js";
import type { ServiceKey, WorkloadUid } from "../../domain/ids.js";
import type { RouteFilter, RouteMatch, RouteRetry, RouteTimeouts } from "../../domain/http-route.js";
import type { GrpcAuthorizer, HttpAuthorizer } from "../../domain/mesh-config.js";
import type { AccessLogging } from "../../domain/telemetry.js";
import type { AuthorizationRule } from "../../domain/objects.js";
import type { JwtRule } from "../../domain/request-authentication.js";

interface Scoped {
  readonly type: "waypoint_config";
  /** The resource's name; unique among its kind. */
  readonly name: string;
  /** `NAMESPACE/NAME` of the waypoints that are told, sorted. */
  readonly waypoints: readonly string[];
}

/** The waypoint itself. */
export interface CompiledWaypoint extends Scoped {
  readonly kind: "waypoint";
  /** Undefined: every request has its record. */
  readonly accessLogging: AccessLogging | undefined;
}

export interface CompiledServedPort {
  readonly port: number;
  readonly protocol: "tcp" | "http" | "http2";
  readonly http2Backend: boolean;
}

/** A service or a workload whose connections the waypoint takes. */
export interface CompiledServed extends Scoped {
  readonly kind: "served";
  readonly served: "service" | "workload";
  readonly ports: readonly CompiledServedPort[];
}

/** Where requests go: a service's key, or why they go nowhere. `subset` is a name in the service's traffic policy. */
export type CompiledTarget =
  | {
      readonly service: ServiceKey;
      readonly port: number;
      readonly subset?: string;
      readonly invalid: undefined;
    }
  | {
      readonly service: undefined;
      readonly port: number;
      readonly subset?: undefined;
      readonly invalid: string;
    };

export type CompiledFilter = RouteFilter<CompiledTarget>;

export interface CompiledBackend {
  readonly target: CompiledTarget;
  readonly weight: number;
  readonly filters: readonly CompiledFilter[];
}

export interface CompiledRule {
  readonly name: string;
  readonly matches: readonly RouteMatch[];
  readonly filters: readonly CompiledFilter[];
  readonly backends: readonly CompiledBackend[];
  readonly timeouts: RouteTimeouts;
  readonly retry: RouteRetry | undefined;
}

export interface CompiledHttpRoute extends Scoped {
  readonly kind: "http_route";
  readonly namespace: string;
  readonly routeName: string;
  readonly sourceObject: string;
  /** Which of several matches decides: the most specific of all (Gateway API), or the first as written (Istio). */
  readonly order: "MOST_SPECIFIC" | "IN_ORDER";
  readonly createdMs: number;
  readonly parents: readonly { readonly service: ServiceKey; readonly port: number }[];
  readonly hostnames: readonly string[];
  /** Set for a consumer route (GEP-1426): it is for callers of its own namespace. */
  readonly consumerNamespace: string | undefined;
  readonly rules: readonly CompiledRule[];
}

export type PolicyTarget =
  { readonly type: "waypoint" } | { readonly type: "service"; readonly service: ServiceKey };

/** The authorizer of an extension provider, its service found. */
export interface CompiledAuthorizer {
  readonly service: ServiceKey;
  readonly provider: GrpcAuthorizer | HttpAuthorizer;
}

/** An AuthorizationPolicy that is attached to a waypoint, or to a service behind one. */
export interface CompiledRequestPolicy extends Scoped {
  readonly kind: "request_policy";
  readonly namespace: string;
  readonly policyName: string;
  readonly sourceObject: string;
  readonly action: "ALLOW" | "DENY" | "AUDIT" | "CUSTOM";
  readonly provider: string;
  /** CUSTOM: who is asked; undefined where the provider is not known, which refuses what the policy matches. */
  readonly external: CompiledAuthorizer | undefined;
  readonly dryRun: boolean;
  readonly targets: readonly PolicyTarget[];
  readonly rules: readonly AuthorizationRule[];
}

/** How a service's endpoints are spoken to, and which of them are of a version. */
export interface CompiledTrafficPolicy extends Scoped {
  readonly kind: "traffic_policy";
  readonly sourceObject: string;
  readonly settings: TrafficSettings;
  /** Workloads that have a subset's labels, sorted, whether or not they are ready. */
  readonly subsets: readonly { readonly name: string; readonly workloads: readonly WorkloadUid[] }[];
}

/** A RequestAuthentication that is attached to a waypoint, or to a service behind one. */
export interface CompiledRequestAuthentication extends Scoped {
  readonly kind: "request_authentication";
  readonly namespace: string;
  readonly policyName: string;
  readonly sourceObject: string;
  readonly targets: readonly PolicyTarget[];
  readonly rules: readonly JwtRule[];
}

/** Keys that were fetched, for the rules that name them. */
export interface CompiledKeySet extends Scoped {
  readonly kind: "key_set";
  readonly jwks: string;
}

export type CompiledWaypointConfig =
  | CompiledRequestAuthentication
  | CompiledKeySet
  | CompiledWaypoint
  | CompiledServed
  | CompiledHttpRoute
  | CompiledRequestPolicy
  | CompiledTrafficPolicy;

export type WaypointConfigKind = CompiledWaypointConfig["kind"];
