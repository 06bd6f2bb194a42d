/** What becomes of a policy: taken or not, and how many pods of the mesh it applies to. */
import type { AuthorizationPolicyObject, PeerAuthenticationObject, PodObject } from "../domain/objects.js";
import type { RequestAuthenticationObject } from "../domain/request-authentication.js";
import { selects } from "../domain/selector.js";
import type { Mesh } from "../model/mesh.js";
import { compileAuthorization, looksAtOriginalClient, scopeOf } from "./authorization.js";
import type { StatusCondition } from "./compiled.js";
import type { Compiler } from "./compiler.js";
import type { CompileConfig } from "./config.js";
import { reachOf, waypointsOf } from "./waypoint/attachment.js";
import { keysCondition } from "./waypoint/request-authentication.js";
import { authorizerOf, type ProviderProblem } from "./waypoint/request-policy.js";
import { hasSelector, meshPolicy, namespacePolicy, selectingPolicy } from "./peer-authentication.js";

type Policy = AuthorizationPolicyObject | PeerAuthenticationObject;

const accepted: StatusCondition = {
  type: "Accepted",
  status: true,
  reason: "Accepted",
  message: "understood and taken",
};

function condition(
  type: StatusCondition["type"],
  status: boolean,
  reason: string,
  message: string,
): StatusCondition {
  return { type, status, reason, message };
}

/** Pods of the mesh, enrolled, that a selector in this namespace reaches. */
function* reached(compiler: Compiler, policy: Policy, everywhere: boolean): Iterable<PodObject> {
  const { mesh } = compiler;
  const pods = everywhere ? mesh.pods.all() : mesh.pods.inNamespace(policy.meta.namespace);
  for (const pod of pods) {
    if (policy.selector && !selects(policy.selector, pod.meta.labels)) continue;
    if (compiler.compiledFrom(pod).some((one) => one.type === "workload" && one.tunnel === "hbone"))
      yield pod;
  }
}

function count(pods: Iterable<PodObject>): number {
  let sum = 0;
  for (const _ of pods) sum += 1;
  return sum;
}

function pods(number: number): string {
  return number === 1 ? "1 pod" : `${number} pods`;
}

/** Istio's words for the same (its documentation, "Ambient: L4 policies with L7 attributes"), shortened. */
function httpMessage(action: AuthorizationPolicyObject["action"], http: readonly string[]): string {
  const found = `needs HTTP, which only a waypoint sees (${http.join(", ")})`;
  switch (action) {
    case "ALLOW":
      return `${found}: the rules with it allow nothing, which is stricter than asked for`;
    case "DENY":
      return `${found}: the rules are enforced without it, which is stricter than asked for`;
    case "AUDIT":
    case "CUSTOM":
      return `${found}: the rules with it are left out`;
  }
}

/** Of a policy with targetRefs: what waypoints make of it. */
function attachmentConditions(
  compiler: Compiler,
  policy: AuthorizationPolicyObject | RequestAuthenticationObject,
): readonly [StatusCondition, StatusCondition] {
  const targets = policy.targetRefs.map(({ kind, name }) => `${kind} ${name}`).join(", ");
  const reach = reachOf(compiler.mesh, compiler.config, policy);
  const waypoints = waypointsOf(reach);
  if (waypoints.length === 0) {
    const message = `it is attached to ${targets}, whose traffic passes no waypoint: nothing enforces it`;
    return [accepted, condition("Programmed", false, "NoWaypoint", message)];
  }
  const missed = policy.targetRefs.length - reach.length;
  const lost = missed > 0 ? `; ${missed} of its targets passes no waypoint` : "";
  const dry = policy.kind === "AuthorizationPolicy" && policy.dryRun;
  const note = dry
    ? "; dry run: what it would decide is logged and counted, and nothing is refused for it"
    : "";
  const message = `told to ${waypoints.join(", ")}${lost}${note}`;
  return [accepted, condition("Programmed", true, dry ? "DryRun" : "Programmed", message)];
}

function authorizerCondition({ mesh, config }: Compiler, policy: AuthorizationPolicyObject): StatusCondition {
  const authorizer = authorizerOf(mesh, config, policy);
  if (typeof authorizer === "object") {
    const message = `extension provider ${policy.provider ?? ""} asks ${authorizer.service}`;
    return condition("ResolvedRefs", true, "ResolvedRefs", message);
  }
  return condition("ResolvedRefs", false, authorizer, providerMessage(authorizer, policy.provider ?? ""));
}

function providerMessage(problem: ProviderProblem, provider: string): string {
  const refused = "requests that the policy matches are refused";
  switch (problem) {
    case "ProviderNotFound":
      return `the mesh config has no extension provider ${provider}: ${refused}`;
    case "ProviderOfOtherPurpose":
      return `extension provider ${provider} is no external authorizer: ${refused}`;
    case "ProviderServiceNotFound":
      return `the service of extension provider ${provider} is not there: ${refused}`;
  }
}

export function requestAuthenticationConditions(
  compiler: Compiler,
  policy: RequestAuthenticationObject,
): readonly StatusCondition[] {
  if (policy.targetRefs.length === 0) {
    const message =
      "it has no targetRefs, and only waypoints look at tokens, which read no selectors: nothing enforces it";
    return [accepted, condition("Programmed", false, "NoTargetRefs", message)];
  }
  const [taken, programmed] = attachmentConditions(compiler, policy);
  if (!programmed.status) return [taken, programmed];
  return [taken, keysCondition(compiler.mesh, compiler.config, policy), programmed];
}

export function authorizationConditions(
  compiler: Compiler,
  policy: AuthorizationPolicyObject,
): readonly StatusCondition[] {
  if (policy.action === "CUSTOM" && policy.targetRefs.length === 0) {
    const message = "only waypoints ask external authorizers, and it has no targetRefs: it refuses nothing";
    return [condition("Accepted", false, "UnsupportedAction", message)];
  }
  if (policy.targetRefs.length > 0) {
    const [taken, programmed] = attachmentConditions(compiler, policy);
    return policy.action === "CUSTOM"
      ? [taken, authorizerCondition(compiler, policy), programmed]
      : [taken, programmed];
  }
  const { compiled, http } = compileAuthorization(policy, compiler.config);
  const taken =
    http.length === 0
      ? accepted
      : condition("Accepted", true, "HttpRulesNotEnforced", httpMessage(policy.action, http));
  const everywhere = compiler.config.rootNamespaces.includes(policy.meta.namespace);
  const number = count(reached(compiler, policy, everywhere));
  const scope = scopeOf(policy, compiler.config);
  const where =
    scope === "global" ? "of the mesh" : scope === "namespace" ? "of the namespace" : "that it selects";
  const notes = [`applies to ${pods(number)} ${where}`];
  if (policy.dryRun)
    notes.push("dry run: what it would decide is logged and counted, and nothing is refused for it");
  if (policy.action === "AUDIT")
    notes.push("AUDIT decides nothing; proxies other than Meltemi's are not sent it");
  else if (compiled && looksAtOriginalClient(compiled))
    notes.push("proxies other than Meltemi's do not see the original client and are sent the stricter form");
  const reason = policy.dryRun ? "DryRun" : number === 0 ? "AppliesToNothing" : "Programmed";
  return [taken, condition("Programmed", true, reason, notes.join("; "))];
}

/** The policy that is in force in this one's place, where one is. */
function ruler(
  mesh: Mesh,
  config: CompileConfig,
  policy: PeerAuthenticationObject,
): PeerAuthenticationObject | undefined {
  const { namespace } = policy.meta;
  const first = config.rootNamespaces.includes(namespace)
    ? meshPolicy(mesh, config)
    : namespacePolicy(mesh, config, namespace);
  return first === policy ? undefined : first;
}

export function peerAuthenticationConditions(
  compiler: Compiler,
  policy: PeerAuthenticationObject,
): readonly StatusCondition[] {
  const { mesh, config } = compiler;
  const { namespace } = policy.meta;
  const root = config.rootNamespaces.includes(namespace);
  if (hasSelector(policy)) {
    if (root) {
      const message = `in the root namespace ${namespace} selectors are not read; write it in the namespace of the pods`;
      return [condition("Accepted", false, "SelectorInRootNamespace", message)];
    }
    const selected = [...reached(compiler, policy, false)];
    const ruled = selected.filter(
      (pod) => selectingPolicy(mesh, config, namespace, pod.meta.labels) === policy,
    );
    const others = selected.length - ruled.length;
    const note =
      others > 0
        ? `; an older one, or the first by name, is in force on ${pods(others)} more that it selects`
        : "";
    const reason = ruled.length === 0 ? "AppliesToNothing" : "Programmed";
    return [accepted, condition("Programmed", true, reason, `applies to ${pods(ruled.length)}${note}`)];
  }
  const older = ruler(mesh, config, policy);
  if (older) {
    const message = `PeerAuthentication ${older.meta.namespace}/${older.meta.name} is older, or first by name, and is in force in its place`;
    return [accepted, condition("Programmed", false, "Overruled", message)];
  }
  const number = count(reached(compiler, policy, root));
  const message = `applies to ${pods(number)} of the ${root ? "mesh" : "namespace"}, except where a nearer one says otherwise`;
  return [accepted, condition("Programmed", true, number === 0 ? "AppliesToNothing" : "Programmed", message)];
}
