/** The mesh's own settings, as Istio keeps them: the key `mesh` of a ConfigMap. */
import type { Meta } from "./objects.js";

/** A body that is sent to who is asked. */
export interface CheckBody {
  readonly maxBytes: number;
  readonly allowPartial: boolean;
  readonly asBytes: boolean;
}

interface Authorizer {
  readonly name: string;
  /** `HOSTNAME` or `NAMESPACE/HOSTNAME`. */
  readonly service: string;
  readonly port: number;
  readonly timeoutMs: number;
  readonly failOpen: boolean;
  readonly statusOnError: number;
  readonly body: CheckBody | undefined;
}

export interface GrpcAuthorizer extends Authorizer {
  readonly type: "ext_authz_grpc";
}

/** Names of headers are `exact`, `prefix*` or `*suffix`, in lower case. */
export interface HttpAuthorizer extends Authorizer {
  readonly type: "ext_authz_http";
  readonly pathPrefix: string;
  readonly requestHeaders: readonly string[];
  readonly furtherHeaders: readonly { readonly name: string; readonly value: string }[];
  readonly headersToUpstreamOnAllow: readonly string[];
  readonly headersToDownstreamOnDeny: readonly string[];
  readonly headersToDownstreamOnAllow: readonly string[];
}

/** One of another purpose (tracing, logs, metrics), by the field that describes it. */
export interface OtherProvider {
  readonly type: "other";
  readonly name: string;
  readonly field: string;
}

export type ExtensionProvider = GrpcAuthorizer | HttpAuthorizer | OtherProvider;

/** A ConfigMap that holds the mesh's settings. */
export interface ConfigMapObject {
  readonly kind: "ConfigMap";
  readonly meta: Meta;
  readonly extensionProviders: readonly ExtensionProvider[];
}

/** The ConfigMaps that are read; of providers of one name the first one's counts. */
export const meshConfigMaps = [
  { namespace: "meltemi-system", name: "meltemi" },
  { namespace: "istio-system", name: "istio" },
] as const;

export function isMeshConfig(namespace: string, name: string): boolean {
  return meshConfigMaps.some((one) => one.namespace === namespace && one.name === name);
}
