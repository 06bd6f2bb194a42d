/**
 * HTTP routes as Meltemi understands them, whatever object they were written in. Defaults are resolved:
 * a rule without matches matches everything, a reference names group, kind and namespace.
 */
import type { Meta } from "./objects.js";

export type TextMatcher =
  { readonly type: "exact"; readonly value: string } | { readonly type: "regex"; readonly value: string };

export type PathMatcher =
  | { readonly type: "exact"; readonly value: string }
  /** Whole segments: `/a` holds for `/a` and `/a/b`, not for `/ab`. */
  | { readonly type: "segments"; readonly value: string }
  | { readonly type: "regex"; readonly value: string }
  /** A gRPC method of whatever service: the second and last segment. */
  | { readonly type: "grpc_method"; readonly value: string };

export interface NamedMatcher {
  /** In lower case for headers. */
  readonly name: string;
  readonly value: TextMatcher;
}

/** Every field that is set must hold. */
export interface RouteMatch {
  readonly path: PathMatcher | undefined;
  readonly method: string | undefined;
  readonly headers: readonly NamedMatcher[];
  readonly query: readonly NamedMatcher[];
}

export interface HeaderChange {
  readonly set: readonly { readonly name: string; readonly value: string }[];
  readonly add: readonly { readonly name: string; readonly value: string }[];
  readonly remove: readonly string[];
}

export type PathChange =
  { readonly type: "full"; readonly value: string } | { readonly type: "prefix"; readonly value: string };

/** A reference to what requests are sent to. */
export interface BackendRef {
  readonly group: string;
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
  readonly port: number | undefined;
}

export type RouteFilter =
  | { readonly type: "request_headers"; readonly change: HeaderChange }
  | { readonly type: "response_headers"; readonly change: HeaderChange }
  | {
      readonly type: "redirect";
      readonly scheme: string | undefined;
      readonly hostname: string | undefined;
      readonly port: number | undefined;
      readonly path: PathChange | undefined;
      readonly status: number;
    }
  | {
      readonly type: "rewrite";
      readonly hostname: string | undefined;
      readonly path: PathChange | undefined;
    }
  | { readonly type: "mirror"; readonly backend: BackendRef; readonly perMillion: number }
  | {
      readonly type: "cors";
      readonly allowOrigins: readonly string[];
      readonly allowMethods: readonly string[];
      readonly allowHeaders: readonly string[];
      readonly exposeHeaders: readonly string[];
      readonly maxAgeS: number;
      readonly allowCredentials: boolean;
    };

export interface WeightedBackend extends BackendRef {
  readonly weight: number;
  readonly filters: readonly RouteFilter[];
}

/** Milliseconds; undefined where the object does not say, 0 where it says "none". */
export interface RouteTimeouts {
  readonly requestMs: number | undefined;
  readonly backendRequestMs: number | undefined;
}

export interface RouteRetry {
  readonly codes: readonly number[];
  readonly attempts: number;
  readonly backoffMs: number | undefined;
}

export interface RouteRule {
  readonly name: string;
  readonly matches: readonly RouteMatch[];
  readonly filters: readonly RouteFilter[];
  readonly backends: readonly WeightedBackend[];
  readonly timeouts: RouteTimeouts;
  readonly retry: RouteRetry | undefined;
}

/** What a route is attached to. */
export interface ParentRef {
  readonly group: string;
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
  readonly sectionName: string | undefined;
  readonly port: number | undefined;
}

interface Route {
  readonly meta: Meta;
  readonly parents: readonly ParentRef[];
  readonly hostnames: readonly string[];
  readonly rules: readonly RouteRule[];
}

/** `gateway.networking.k8s.io` HTTPRoute. */
export interface HttpRouteObject extends Route {
  readonly kind: "HTTPRoute";
}

/** `gateway.networking.k8s.io` GRPCRoute: methods are paths of HTTP. */
export interface GrpcRouteObject extends Route {
  readonly kind: "GRPCRoute";
}

export type RouteObject = HttpRouteObject | GrpcRouteObject;

/** Lets routes of other namespaces name this namespace's objects. */
export interface ReferenceGrantObject {
  readonly kind: "ReferenceGrant";
  readonly meta: Meta;
  readonly from: readonly { readonly group: string; readonly kind: string; readonly namespace: string }[];
  /** `name` undefined: every object of the kind. */
  readonly to: readonly {
    readonly group: string;
    readonly kind: string;
    readonly name: string | undefined;
  }[];
}
