/** RequestAuthentications for waypoints, and the keys that were fetched for them. */
import {
  keySetName,
  keySetsOf,
  type KeySetObject,
  type RequestAuthenticationObject,
} from "../../domain/request-authentication.js";
import { isOlder } from "../../domain/policy-age.js";
import type { Mesh } from "../../model/mesh.js";
import type { CompileConfig } from "../config.js";
import type { StatusCondition } from "../compiled.js";
import { partsOf, reachOf, waypointsOf } from "./attachment.js";
import type { CompiledKeySet, CompiledRequestAuthentication } from "./config.js";

export function compileRequestAuthentication(
  mesh: Mesh,
  config: CompileConfig,
  policy: RequestAuthenticationObject,
): readonly CompiledRequestAuthentication[] {
  const { namespace, name } = policy.meta;
  return partsOf(policy.meta, reachOf(mesh, config, policy)).map((part) => ({
    type: "waypoint_config",
    kind: "request_authentication",
    name: part.name,
    waypoints: part.waypoints,
    namespace,
    policyName: name,
    sourceObject: `RequestAuthentication/${namespace}/${name}`,
    targets: part.targets,
    rules: policy.rules,
  }));
}

/** Keys go to every waypoint with a rule that names them. */
export function compileKeySet(
  mesh: Mesh,
  config: CompileConfig,
  keys: KeySetObject,
): CompiledKeySet | undefined {
  const { name } = keys.meta;
  const users = [...mesh.authenticationsByKeySet.get(name)];
  const waypoints = waypointsOf(users.flatMap((policy) => reachOf(mesh, config, policy)));
  if (keys.jwks === undefined || waypoints.length === 0) return undefined;
  return { type: "waypoint_config", kind: "key_set", name, waypoints, jwks: keys.jwks };
}

/**
 * Key sets that waypoints need, and how long an attempt to fetch each may take: what the control plane has to fetch.
 * Of one namespace's at most `mostKeySets`, those of its oldest objects.
 */
export function wantedKeySets(mesh: Mesh, config: CompileConfig): ReadonlyMap<string, number> {
  const byNamespace = new Map<string, RequestAuthenticationObject[]>();
  for (const policy of mesh.requestAuthentications.all()) {
    if (keySetsOf(policy).length === 0) continue;
    const list = byNamespace.get(policy.meta.namespace);
    if (list) list.push(policy);
    else byNamespace.set(policy.meta.namespace, [policy]);
  }
  const wanted = new Map<string, number>();
  for (const policies of byNamespace.values())
    for (const [name, timeoutMs] of wantedOf(mesh, config, policies))
      wanted.set(name, Math.max(wanted.get(name) ?? 0, timeoutMs));
  return wanted;
}

/** Whoever may write into a namespace decides what is fetched: within bounds. */
const mostKeySets = 32;

/** The same, of the policies of one namespace. */
function wantedOf(
  mesh: Mesh,
  config: CompileConfig,
  policies: readonly RequestAuthenticationObject[],
): ReadonlyMap<string, number> {
  const wanted = new Map<string, number>();
  for (const policy of [...policies].sort((a, b) => (isOlder(a, b) ? -1 : 1))) {
    if (reachOf(mesh, config, policy).length === 0) continue;
    for (const { keys, timeoutMs } of policy.rules) {
      const name = keySetName(keys);
      if (name === undefined || (wanted.size >= mostKeySets && !wanted.has(name))) continue;
      wanted.set(name, Math.max(wanted.get(name) ?? 0, timeoutMs));
    }
  }
  return wanted;
}

/** Whether the keys that a policy needs are there. */
export function keysCondition(
  mesh: Mesh,
  config: CompileConfig,
  policy: RequestAuthenticationObject,
): StatusCondition {
  const stale: string[] = [];
  for (const name of keySetsOf(policy)) {
    const keys = mesh.keySets.get("", name);
    const where = name.slice(name.indexOf(":") + 1);
    if (keys?.jwks === undefined) {
      const refused = "tokens of the issuer are refused until they are there";
      if (keys?.problem !== undefined)
        return missing(
          "KeysNotFetched",
          `the keys from ${where} cannot be fetched: ${keys.problem}; ${refused}`,
        );
      const { namespace } = policy.meta;
      const others = [...mesh.requestAuthentications.all()].filter(
        ({ meta }) => meta.namespace === namespace,
      );
      const message = wantedOf(mesh, config, others).has(name)
        ? `the keys from ${where} have not been fetched yet; ${refused}`
        : `the keys from ${where} are not fetched: older objects of namespace ${namespace} need ${mostKeySets} key sets, which is the most that are fetched for one; ${refused}`;
      return missing("KeysPending", message);
    }
    if (keys.problem !== undefined) stale.push(`${where}: ${keys.problem}`);
  }
  const message =
    stale.length === 0
      ? "every issuer's keys are there"
      : `the last good keys are in force, newer ones cannot be fetched: ${stale.join("; ")}`;
  return {
    type: "ResolvedRefs",
    status: true,
    reason: stale.length === 0 ? "ResolvedRefs" : "KeysNotRefreshed",
    message,
  };
}

function missing(reason: string, message: string): StatusCondition {
  return { type: "ResolvedRefs", status: false, reason, message };
}
