/** What a waypoint is told, in the mesh's words. xds/encode turns these into `meltemi.v1` messages, one for one. */
import type { ServiceKey } from "../../domain/ids.js";
import type { RouteFilter, RouteMatch, RouteRetry, RouteTimeouts } from "../../domain/http-route.js";
import type { AuthorizationRule } from "../../domain/objects.js";

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

/** Where requests go: a service's key, or why they go nowhere. */
export type CompiledTarget =
  | { readonly service: ServiceKey; readonly port: number; readonly invalid: undefined }
  | { readonly service: undefined; readonly port: number; readonly invalid: string };

export type CompiledFilter =
  | Exclude<RouteFilter, { type: "mirror" }>
  | { readonly type: "mirror"; readonly target: CompiledTarget; readonly perMillion: number };

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
  readonly createdMs: number;
  readonly parents: readonly { readonly service: ServiceKey; readonly port: number }[];
  readonly hostnames: readonly string[];
  /** Set for a consumer route (GEP-1426): it is for callers of its own namespace. */
  readonly consumerNamespace: string | undefined;
  readonly rules: readonly CompiledRule[];
}

export type PolicyTarget =
  { readonly type: "waypoint" } | { readonly type: "service"; readonly service: ServiceKey };

/** An AuthorizationPolicy that is attached to a waypoint, or to a service behind one. */
export interface CompiledRequestPolicy extends Scoped {
  readonly kind: "request_policy";
  readonly namespace: string;
  readonly policyName: string;
  readonly sourceObject: string;
  readonly action: "ALLOW" | "DENY" | "AUDIT" | "CUSTOM";
  readonly provider: string;
  readonly dryRun: boolean;
  readonly targets: readonly PolicyTarget[];
  readonly rules: readonly AuthorizationRule[];
}

export type CompiledWaypointConfig =
  CompiledWaypoint | CompiledServed | CompiledHttpRoute | CompiledRequestPolicy;

export type WaypointConfigKind = CompiledWaypointConfig["kind"];
