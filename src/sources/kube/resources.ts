/** Where the API server keeps each kind that is read. */
import { readableKinds } from "../decode/decode.js";
import type { MeshKind } from "../../domain/objects.js";

export interface Resource {
  readonly kind: MeshKind;
  readonly group: string;
  /** In the order of preference: an older cluster may serve only the later ones. */
  readonly versions: readonly string[];
  readonly plural: string;
  /** Built into every API server; others come with a CustomResourceDefinition, or do not. */
  readonly builtIn: boolean;
  /** The only objects that are read, of a kind that everybody uses for everything. */
  readonly only?: readonly { readonly namespace: string; readonly name: string }[];
}

/** What is listed and watched: a kind in all namespaces, or one object of it. */
export interface Collection {
  /** For log and metrics. */
  readonly name: string;
  readonly resource: Resource;
  readonly paths: readonly { readonly version: string; readonly path: string }[];
  readonly query: Readonly<Record<string, string>>;
}

const builtInGroups: ReadonlySet<string> = new Set(["", "discovery.k8s.io"]);

/** The plural in a resource's path, as Kubernetes makes it from the kind. */
export function pluralOf(kind: string): string {
  const lower = kind.toLowerCase();
  if (/[^aeiou]y$/.test(lower)) return `${lower.slice(0, -1)}ies`;
  return lower.endsWith("s") ? `${lower}es` : `${lower}s`;
}

/** Every kind that the decoders understand. */
export function meshResources(): readonly Resource[] {
  return readableKinds().map(({ group, kind, versions, only }) => ({
    kind,
    group,
    versions,
    plural: pluralOf(kind),
    builtIn: builtInGroups.has(group),
    ...(only !== undefined && { only }),
  }));
}

/** `/api/v1/pods`, `/apis/security.istio.io/v1/authorizationpolicies`: of all namespaces, or of one. */
export function collectionPath({ group, plural }: Resource, version: string, namespace?: string): string {
  const within = namespace === undefined ? "" : `/namespaces/${namespace}`;
  return `${group === "" ? "/api" : `/apis/${group}`}/${version}${within}/${plural}`;
}

/** @param query selectors of the kind, as `{ fieldSelector: "spec.nodeName=n1" }` */
export function collectionsOf(
  resource: Resource,
  query: Readonly<Record<string, string>> = {},
): readonly Collection[] {
  const { kind, versions, only } = resource;
  const at = (namespace?: string): Collection["paths"] =>
    versions.map((version) => ({ version, path: collectionPath(resource, version, namespace) }));
  if (only === undefined) return [{ name: kind, resource, paths: at(), query }];
  return only.map(({ namespace, name }) => ({
    name: `${kind} ${namespace}/${name}`,
    resource,
    paths: at(namespace),
    query: { ...query, fieldSelector: `metadata.name=${name}` },
  }));
}

export function apiVersionOf({ group }: Resource, version: string): string {
  return group === "" ? version : `${group}/${version}`;
}
