import { policyKey, type PolicyKey } from "../domain/ids.js";
import type { Mesh } from "../model/mesh.js";
import { isForNodes } from "./authorization.js";
import type { CompileConfig } from "./config.js";
import { strictPolicies } from "./peer-authentication.js";

const none: readonly PolicyKey[] = [];

/**
 * The policies that select a workload by its labels: those of its namespace and, with a selector, of
 * the root namespaces; and what its PeerAuthentication comes to.
 */
export function workloadPolicies(
  mesh: Mesh,
  config: CompileConfig,
  namespace: string,
  labels: ReadonlyMap<string, string>,
): readonly PolicyKey[] {
  const keys = new Set<PolicyKey>();
  for (const from of new Set([namespace, ...config.rootNamespaces])) {
    for (const policy of mesh.authorizationSelectors.matching(from, labels)) {
      if (isForNodes(policy)) keys.add(policyKey(policy.meta.namespace, policy.meta.name));
    }
  }
  const strict = strictPolicies(mesh, config, namespace, labels);
  if (keys.size === 0) return strict.length === 0 ? none : strict;
  return [...[...keys].sort(), ...strict];
}
