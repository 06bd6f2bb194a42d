/**
 * HTTP routes as Meltemi understands them, whatever object they were written in. Defaults are resolved:
 * a rule without matches matches everything, a reference names group, kind and namespace.
 */
import type { Meta } from "./objects.js";

export type TextMatcher =
  | {
      readonly type: "exact" | "prefix" | "regex";
      readonly value: string;
      /** ASCII letters only. */
      readonly ignoreCase?: true;
    }
  /** Present at all, also empty. */
  | { readonly type: "present" };

export type PathMatcher =
  | { readonly type: "exact"; readonly value: string; readonly ignoreCase?: true }
  /** Characters (Istio): `/a` holds for `/ab`, too. */
  | { readonly type: "prefix"; readonly value: string; readonly ignoreCase?: true }
  /** Whole segments: `/a` holds for `/a` and `/a/b`, not for `/ab`. */
  | { readonly type: "segments"; readonly value: string }
  | { readonly type: "regex"; readonly value: string }
  /** A gRPC method of whatever service: the second and last segment. */
  | { readonly type: "grpc_method"; readonly value: string };

export interface NamedMatcher {
  /** In lower case for headers. */
  readonly name: string;
  readonly value: TextMatcher;
  /** It is absent or has another value. */
  readonly not?: true;
}

/** Every field that is set must hold. */
export interface RouteMatch {
  readonly path: PathMatcher | undefined;
  readonly method: TextMatcher | undefined;
  readonly headers: readonly NamedMatcher[];
  readonly query: readonly NamedMatcher[];
  /** In lower case, without port. */
  readonly authority?: TextMatcher;
  readonly scheme?: TextMatcher;
  /** That was connected to. */
  readonly port?: number;
  /** Namespace of the original caller. */
  readonly sourceNamespace?: string;
}

export interface HeaderChange {
  readonly set: readonly { readonly name: string; readonly value: string }[];
  readonly add: readonly { readonly name: string; readonly value: string }[];
  readonly remove: readonly string[];
}

export type PathChange =
  | { readonly type: "full"; readonly value: string }
  /** Replaces what the match's prefix (or exact path) was. */
  | { readonly type: "prefix"; readonly value: string }
  /** `\1` in the substitution is the pattern's first group. */
  | { readonly type: "regex"; readonly pattern: string; readonly substitution: string };

/** A reference to what requests are sent to. */
export interface BackendRef {
  readonly group: string;
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
  readonly port: number | undefined;
}

/** What is done to a request, or answered in its place. `Ref` is how the object names a backend. */
export type RouteFilter<Ref = BackendRef> =
  | { readonly type: "request_headers"; readonly change: HeaderChange }
  | { readonly type: "response_headers"; readonly change: HeaderChange }
  | {
      readonly type: "redirect";
      readonly scheme: string | undefined;
      readonly hostname: string | undefined;
      readonly port: number | undefined;
      readonly path: PathChange | undefined;
      readonly status: number;
      /** The port that the client came by is named where no other is given. */
      readonly keepPort?: true;
    }
  | {
      readonly type: "rewrite";
      readonly hostname: string | undefined;
      readonly path: PathChange | undefined;
    }
  | { readonly type: "mirror"; readonly backend: Ref; readonly perMillion: number }
  | {
      readonly type: "direct_response";
      readonly status: number;
      readonly body: string;
      /** `body` is base64 of bytes. */
      readonly binary?: true;
    }
  | {
      readonly type: "fault";
      readonly delay: { readonly ms: number; readonly perMillion: number } | undefined;
      readonly abort:
        | { readonly status: number; readonly grpcStatus: number | undefined; readonly perMillion: number }
        | undefined;
    }
  | {
      readonly type: "cors";
      readonly allowOrigins: readonly TextMatcher[];
      readonly allowMethods: readonly string[];
      readonly allowHeaders: readonly string[];
      readonly exposeHeaders: readonly string[];
      readonly maxAgeS: number;
      readonly allowCredentials: boolean;
      /** What comes from another origin is the backend's to answer, preflights too (Istio). */
      readonly forwardUnmatched?: true;
    };

/** Whether it changes the request that goes on to a backend. */
export function changesRequest({ type }: RouteFilter<unknown>): boolean {
  switch (type) {
    case "request_headers":
    case "rewrite":
      return true;
    case "response_headers":
    case "redirect":
    case "mirror":
    case "direct_response":
    case "fault":
    case "cors":
      return false;
  }
}

export interface WeightedBackend extends BackendRef {
  readonly weight: number;
  readonly filters: readonly RouteFilter[];
}

/** Milliseconds; undefined where the object does not say, 0 where it says "none". */
export interface RouteTimeouts {
  readonly requestMs: number | undefined;
  readonly backendRequestMs: number | undefined;
}

/** Times beyond the first, and for what. */
export interface RouteRetry {
  readonly attempts: number;
  readonly codes: readonly number[];
  /** Values of `grpc-status`. */
  readonly grpcCodes: readonly number[];
  /** The attempt did not reach the backend, or was refused before it could be acted on. */
  readonly connectFailure: boolean;
  /** The connection ended before the response began. */
  readonly reset: boolean;
  readonly perTryTimeoutMs: number | undefined;
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
