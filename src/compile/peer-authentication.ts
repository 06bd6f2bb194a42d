/**
 * PeerAuthentication as ambient carries it: authorizations that deny what has no identity
 * (wire-contract.md, "Discovery"). Precedence is Istio's: port, workload, namespace, mesh; of several
 * on one level the oldest counts, then the first by name.
 */
import { policyKey, type PolicyKey } from "../domain/ids.js";
import type { MtlsMode, PeerAuthenticationObject } from "../domain/objects.js";
import { isOlder } from "../domain/policy-age.js";
import type { Mesh } from "../model/mesh.js";
import type { CompiledAuthorization, CompiledMatch } from "./compiled.js";
import type { CompileConfig } from "./config.js";
import { match } from "./match.js";

const staticStrictName = "istio_converted_static_strict";

/** A match of connections whose peer has no identity. */
const noIdentity: CompiledMatch = match({ notPrincipals: [{ type: "presence" }] });

export function hasSelector(policy: PeerAuthenticationObject): boolean {
  return policy.selector !== undefined && policy.selector.size > 0;
}

export function oldest(policies: Iterable<PeerAuthenticationObject>): PeerAuthenticationObject | undefined {
  let found: PeerAuthenticationObject | undefined;
  for (const policy of policies) if (!found || isOlder(policy, found)) found = policy;
  return found;
}

function* wide(mesh: Mesh, namespace: string): Iterable<PeerAuthenticationObject> {
  for (const policy of mesh.peerAuthentications.inNamespace(namespace))
    if (!hasSelector(policy)) yield policy;
}

/** The mesh-wide policy in force. */
export function meshPolicy(mesh: Mesh, config: CompileConfig): PeerAuthenticationObject | undefined {
  return oldest(config.rootNamespaces.flatMap((namespace) => [...wide(mesh, namespace)]));
}

/** The namespace-wide policy in force; a root namespace has only the mesh's. */
export function namespacePolicy(
  mesh: Mesh,
  config: CompileConfig,
  namespace: string,
): PeerAuthenticationObject | undefined {
  return config.rootNamespaces.includes(namespace) ? undefined : oldest(wide(mesh, namespace));
}

/** The selecting policy in force; in a root namespace selectors are not read. */
export function selectingPolicy(
  mesh: Mesh,
  config: CompileConfig,
  namespace: string,
  labels: ReadonlyMap<string, string>,
): PeerAuthenticationObject | undefined {
  if (config.rootNamespaces.includes(namespace)) return undefined;
  const matching = [...mesh.peerSelectors.matching(namespace, labels)];
  return oldest(matching.filter(hasSelector));
}

function isStrict(mode: MtlsMode, inherited: boolean): boolean {
  return mode === "UNSET" ? inherited : mode === "STRICT";
}

/** Whether what is not selected in the namespace is strict. */
export function namespaceStrict(mesh: Mesh, config: CompileConfig, namespace: string): boolean {
  const meshStrict = isStrict(meshPolicy(mesh, config)?.mode ?? "UNSET", false);
  return isStrict(namespacePolicy(mesh, config, namespace)?.mode ?? "UNSET", meshStrict);
}

export function staticStrictKey(config: CompileConfig): PolicyKey {
  return policyKey(config.rootNamespaces[0], staticStrictName);
}

function convertedName(policy: PeerAuthenticationObject): string {
  return `converted_peer_authentication_${policy.meta.name}`;
}

/** The authorizations that a workload must name so that its effective mode holds. */
export function strictPolicies(
  mesh: Mesh,
  config: CompileConfig,
  namespace: string,
  labels: ReadonlyMap<string, string>,
): readonly PolicyKey[] {
  if (mesh.peerAuthentications.size === 0) return [];
  const inherited = namespaceStrict(mesh, config, namespace);
  const policy = selectingPolicy(mesh, config, namespace, labels);
  if (!policy) return inherited ? [staticStrictKey(config)] : [];
  if (convertedRules(policy, inherited)) return [policyKey(namespace, convertedName(policy))];
  return isStrict(policy.mode, inherited) ? [staticStrictKey(config)] : [];
}

/** The rules of a policy whose ports differ from its own mode; undefined where none does. */
function convertedRules(
  policy: PeerAuthenticationObject,
  inherited: boolean,
): CompiledAuthorization["rules"] | undefined {
  const strict = isStrict(policy.mode, inherited);
  const differing = [...policy.portModes]
    .filter(([, mode]) => mode !== "UNSET" && (mode === "STRICT") !== strict)
    .map(([port]) => port)
    .sort((a, b) => a - b);
  if (differing.length === 0) return undefined;
  // Strict with exceptions: one rule that holds for every port but these. Else: one rule for each strict port.
  if (strict) return [[[noIdentity], ...differing.map((port) => [match({ notDestinationPorts: [port] })])]];
  return differing.map((port) => [[{ ...noIdentity, destinationPorts: [port] }]]);
}

/** What one PeerAuthentication becomes by itself. */
export function compilePeerAuthentication(
  mesh: Mesh,
  config: CompileConfig,
  policy: PeerAuthenticationObject,
): CompiledAuthorization | undefined {
  const { namespace, name } = policy.meta;
  if (!hasSelector(policy) || config.rootNamespaces.includes(namespace)) return undefined;
  const rules = convertedRules(policy, namespaceStrict(mesh, config, namespace));
  if (!rules) return undefined;
  const key = policyKey(namespace, convertedName(policy));
  return denial(key, convertedName(policy), namespace, rules, `PeerAuthentication/${namespace}/${name}`);
}

/** The one policy that strict workloads name, there while any PeerAuthentication is. */
export function compileStaticStrict(mesh: Mesh, config: CompileConfig): CompiledAuthorization | undefined {
  if (mesh.peerAuthentications.size === 0) return undefined;
  const namespace = config.rootNamespaces[0];
  return denial(staticStrictKey(config), staticStrictName, namespace, [[[noIdentity]]], "PeerAuthentication");
}

function denial(
  key: PolicyKey,
  name: string,
  namespace: string,
  rules: CompiledAuthorization["rules"],
  sourceObject: string,
): CompiledAuthorization {
  const fixed = {
    type: "authorization",
    scope: "selector",
    action: "deny",
    dryRun: false,
  } as const;
  return { ...fixed, key, name, namespace, rules, sourceObject };
}
