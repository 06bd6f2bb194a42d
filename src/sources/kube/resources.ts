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
  return readableKinds().map(({ group, kind, versions }) => ({
    kind,
    group,
    versions,
    plural: pluralOf(kind),
    builtIn: builtInGroups.has(group),
  }));
}

/** `/api/v1/pods`, `/apis/security.istio.io/v1/authorizationpolicies`: of all namespaces. */
export function collectionPath({ group, plural }: Resource, version: string): string {
  return `${group === "" ? "/api" : `/apis/${group}`}/${version}/${plural}`;
}

export function apiVersionOf({ group }: Resource, version: string): string {
  return group === "" ? version : `${group}/${version}`;
}
