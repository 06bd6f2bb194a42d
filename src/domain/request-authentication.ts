import type { Meta, TargetRef } from "./objects.js";

/** Where a token is looked for in a request. Names of headers in lower case. */
export type TokenPlace =
  | { readonly type: "header"; readonly name: string; readonly prefix: string }
  | { readonly type: "parameter"; readonly name: string }
  | { readonly type: "cookie"; readonly name: string };

/** Where the keys of an issuer come from. */
export type KeySource =
  /** A JSON Web Key Set that the object has in itself. */
  | { readonly type: "inline"; readonly jwks: string }
  | { readonly type: "uri"; readonly url: string }
  /** By OpenID discovery: `URL/.well-known/openid-configuration`. */
  | { readonly type: "issuer"; readonly url: string };

export interface JwtRule {
  readonly issuer: string;
  /** Empty: `aud` is not looked at. */
  readonly audiences: readonly string[];
  readonly keys: KeySource;
  /** Empty: `authorization: Bearer`, and the parameter `access_token`. */
  readonly places: readonly TokenPlace[];
  readonly outputPayloadToHeader: string | undefined;
  readonly forwardOriginalToken: boolean;
  /** `claim` is nested by dots. */
  readonly outputClaimToHeaders: readonly { readonly header: string; readonly claim: string }[];
  /** Of one request for keys. */
  readonly timeoutMs: number;
}

/** `security.istio.io` RequestAuthentication: which tokens are believed. */
export interface RequestAuthenticationObject {
  readonly kind: "RequestAuthentication";
  readonly meta: Meta;
  readonly selector: ReadonlyMap<string, string> | undefined;
  readonly targetRefs: readonly TargetRef[];
  readonly rules: readonly JwtRule[];
}

/**
 * Keys of an issuer, as far as they could be fetched: not a user's object, but what the control plane found
 * where the user's objects say. `meta.name` is `keySetName` of the source; it has no namespace.
 */
export interface KeySetObject {
  readonly kind: "KeySet";
  readonly meta: Meta;
  /** The keys that were fetched last; undefined where none ever were. */
  readonly jwks: string | undefined;
  /** Why the last attempt failed; undefined where it did not. */
  readonly problem: string | undefined;
}

/** The name under which fetched keys are known; undefined for keys that need no fetching. */
export function keySetName(source: KeySource): string | undefined {
  return source.type === "inline" ? undefined : `${source.type}:${source.url}`;
}

/** The names of all key sets that a policy needs, each once. */
export function keySetsOf({ rules }: RequestAuthenticationObject): readonly string[] {
  return [...new Set(rules.flatMap(({ keys }) => keySetName(keys) ?? []))];
}
