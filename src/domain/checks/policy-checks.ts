import type { AuthorizationPolicyObject, AuthorizationRule, Matches, StringMatch } from "../objects.js";
import type { Problem } from "../problem.js";
import type { RequestAuthenticationObject } from "../request-authentication.js";
import { stringMatches, stringMatchText } from "../string-match.js";
import { isOlder } from "../policy-age.js";
import { selectorText } from "../selector.js";
import { isWaypoint } from "../waypoint-class.js";
import { problemOf, type Inventory } from "./inventory.js";

type Finding = Parameters<typeof problemOf>[3];

/** One policy under check. */
class Check {
  readonly problems: Problem[] = [];

  constructor(
    readonly policy: AuthorizationPolicyObject,
    readonly inventory: Inventory,
  ) {}

  warn(path: string, finding: Finding): void {
    this.problems.push(problemOf(this.policy, "warning", path, finding));
  }
}

/** Both lists of a field, each entry with its path. */
function entries<T>(
  base: string,
  field: string,
  matches: Matches<T>,
): { readonly path: string; readonly value: T }[] {
  const negated = `not${field.charAt(0).toUpperCase()}${field.slice(1)}`;
  return [
    ...matches.any.map((value, index) => ({ path: `${base}.${field}[${index}]`, value })),
    ...matches.none.map((value, index) => ({ path: `${base}.${negated}[${index}]`, value })),
  ];
}

function checkPrincipal(check: Check, path: string, match: StringMatch): void {
  if (match.type !== "exact") return;
  const [trustDomain = "", , namespace = "", , account = ""] = match.value.split("/");
  const { inventory } = check;
  if (trustDomain !== inventory.options.trustDomain) {
    const message = `is of another trust domain than this mesh's, ${inventory.options.trustDomain}`;
    check.warn(path, { value: match.value, message });
  } else if (!inventory.namespaces.has(namespace)) {
    check.warn(path, { value: match.value, message: `names a namespace that is not there, ${namespace}` });
  } else if (!inventory.hasServiceAccount(namespace, account)) {
    check.warn(path, {
      value: match.value,
      message: `names a service account that is not there, ${namespace}/${account}`,
    });
  }
}

function checkNamespace(check: Check, path: string, match: StringMatch): void {
  if ([...check.inventory.namespaces].some((namespace) => stringMatches(match, namespace))) return;
  check.warn(path, { value: stringMatchText(match), message: "matches no namespace that is there" });
}

function checkAccount(
  check: Check,
  path: string,
  account: { readonly namespace: string; readonly name: string },
): void {
  if (check.inventory.hasServiceAccount(account.namespace, account.name)) return;
  check.warn(path, {
    value: `${account.namespace}/${account.name}`,
    message: "names a service account that is not there",
  });
}

function checkSources(check: Check, rule: AuthorizationRule, base: string): void {
  rule.from.forEach((source, index) => {
    const path = `${base}.from[${index}].source`;
    for (const entry of entries(path, "principals", source.principals))
      checkPrincipal(check, entry.path, entry.value);
    for (const entry of entries(path, "namespaces", source.namespaces))
      checkNamespace(check, entry.path, entry.value);
    for (const entry of entries(path, "serviceAccounts", source.serviceAccounts))
      checkAccount(check, entry.path, entry.value);
  });
}

function says(matches: Matches<unknown>): boolean {
  return matches.any.length + matches.none.length > 0;
}

/** Keys of conditions that a node proxy can decide: what is known of a connection. */
const connectionKeys = new Set([
  "source.ip",
  "remote.ip",
  "source.namespace",
  "source.principal",
  "source.serviceAccount",
  "destination.ip",
  "destination.port",
]);

/** The HTTP fields of a rule, by path. */
function requestFields(rule: AuthorizationRule, base: string): string[] {
  const from = rule.from.flatMap((source, index) =>
    says(source.requestPrincipals) ? [`${base}.from[${index}].source.requestPrincipals`] : [],
  );
  const to = rule.to.flatMap((operation, index) =>
    (["hosts", "methods", "paths"] as const)
      .filter((field) => says(operation[field]))
      .map((field) => `${base}.to[${index}].operation.${field}`),
  );
  const when = rule.when.flatMap(({ key }, index) =>
    connectionKeys.has(key) ? [] : [`${base}.when[${index}].key`],
  );
  return [...from, ...to, ...when];
}

/** How ambient treats HTTP fields where no waypoint reads requests: an ALLOW rule never matches, a DENY rule matches without them. */
function checkRequestFields(check: Check, rule: AuthorizationRule, base: string): void {
  const [first] = requestFields(rule, base);
  if (first === undefined) return;
  const { action } = check.policy;
  const hint = "say it with principals, namespaces, addresses and ports, which node proxies read";
  switch (action) {
    case "ALLOW":
      check.warn(first, {
        message: "is about requests, which a node proxy does not read: this ALLOW rule never matches",
        hint,
      });
      break;
    case "DENY":
      check.warn(first, {
        message: "is about requests, which a node proxy does not read: this DENY rule matches without it",
        hint,
      });
      break;
    case "AUDIT":
      check.warn(first, {
        message: "is about requests, which a node proxy does not read: this AUDIT rule never matches",
        hint,
      });
      break;
    case "CUSTOM":
  }
}

function checkScope(check: Check): void {
  const { policy, inventory } = check;
  const { namespace } = policy.meta;
  const mesh = inventory.isRoot(namespace);
  if (policy.selector && inventory.podsOf(namespace, policy.selector).length === 0) {
    const where = mesh ? "the mesh" : `namespace ${namespace}`;
    const message = `selects no pod of ${where}: the policy protects nothing`;
    check.warn("spec.selector.matchLabels", {
      value: selectorText(policy.selector),
      message,
      hint: "compare it with the pods' labels",
    });
  }
  if (
    mesh &&
    !policy.selector &&
    policy.targetRefs.length === 0 &&
    policy.action === "ALLOW" &&
    policy.rules.length === 0
  ) {
    check.warn("spec.rules", {
      message: `is empty: in the root namespace ${namespace} this refuses every connection of the mesh that no other policy allows`,
      hint: "add rules, or move the policy to the namespace it is meant for",
    });
  }
}

/** What a policy is attached to, one target at a time. */
function targetProblems(
  inventory: Inventory,
  policy: AuthorizationPolicyObject | RequestAuthenticationObject,
): Problem[] {
  const { namespace } = policy.meta;
  return policy.targetRefs.flatMap((target, index) => {
    const path = `spec.targetRefs[${index}]`;
    const value = `${target.kind}/${target.name}`;
    const problems: Problem[] = [];
    const found =
      (target.kind === "Service" && inventory.find("Service", namespace, target.name)) ||
      (target.kind === "ServiceEntry" && inventory.find("ServiceEntry", namespace, target.name)) ||
      (target.kind === "Gateway" && inventory.find("Gateway", namespace, target.name)) ||
      target.kind === "GatewayClass";
    if (!found) {
      const message = `names a target that is not in namespace ${namespace}`;
      problems.push(problemOf(policy, "warning", path, { value, message }));
    }
    const gateway = target.kind === "Gateway" ? inventory.find("Gateway", namespace, target.name) : undefined;
    if (gateway && !isWaypoint(gateway)) {
      problems.push(
        problemOf(policy, "unsupported", path, {
          value,
          message: "is enforced by gateways, which are not run yet",
          hint: "protect the pods meanwhile with a selector and principals",
        }),
      );
    }
    return problems;
  });
}

/** Whom a CUSTOM policy asks. */
function checkProvider(check: Check): void {
  const { policy, inventory } = check;
  const { provider } = policy;
  if (policy.action !== "CUSTOM" || policy.targetRefs.length === 0 || provider === undefined) return;
  const found = inventory
    .all("ConfigMap")
    .flatMap(({ extensionProviders }) => extensionProviders)
    .find(({ name }) => name === provider);
  if (found && found.type !== "other") return;
  check.warn("spec.provider.name", {
    value: provider,
    message: found
      ? "is no external authorizer: requests that the policy matches are refused"
      : "is no extension provider of the mesh config: requests that the policy matches are refused",
    hint: "describe it under extensionProviders in ConfigMap istio-system/istio, key mesh",
  });
}

/** RequestAuthentications that nothing enforces. */
export function requestAuthenticationProblems(inventory: Inventory): Problem[] {
  return inventory.all("RequestAuthentication").flatMap((policy) => {
    if (policy.targetRefs.length > 0) return targetProblems(inventory, policy);
    return problemOf(policy, "warning", policy.selector ? "spec.selector" : "spec.targetRefs", {
      message: "is not what waypoints read, and only they look at tokens: nothing enforces it",
      hint: "attach it with targetRefs to a waypoint, or to a Service behind one",
    });
  });
}

/** AuthorizationPolicies against the objects they speak of. */
export function policyProblems(inventory: Inventory): Problem[] {
  return inventory.all("AuthorizationPolicy").flatMap((policy) => {
    const check = new Check(policy, inventory);
    checkScope(check);
    check.problems.push(...targetProblems(inventory, policy));
    checkProvider(check);
    policy.rules.forEach((rule, index) => {
      const base = `spec.rules[${index}]`;
      checkSources(check, rule, base);
      if (policy.targetRefs.length === 0) checkRequestFields(check, rule, base);
    });
    return check.problems;
  });
}

/** PeerAuthentications that protect nothing, or contradict each other. */
export function peerAuthenticationProblems(inventory: Inventory): Problem[] {
  const problems: Problem[] = [];
  const wide = new Map<string, string>();
  const policies = [...inventory.all("PeerAuthentication")].sort((a, b) => (isOlder(a, b) ? -1 : 1));
  for (const policy of policies) {
    const { namespace, name } = policy.meta;
    if (policy.selector && policy.selector.size > 0) {
      if (inventory.podsOf(namespace, policy.selector).length > 0) continue;
      const value = selectorText(policy.selector);
      problems.push(
        problemOf(policy, "warning", "spec.selector.matchLabels", {
          value,
          message: "selects no pod: it has no effect",
          hint: "compare it with the pods' labels",
        }),
      );
      continue;
    }
    const other = wide.get(namespace);
    if (other === undefined) wide.set(namespace, name);
    else {
      const message = `is the second for the whole of namespace ${namespace}, beside ${other}, which is older, or first by name, and in force`;
      problems.push(problemOf(policy, "warning", "", { message, hint: "keep one" }));
    }
  }
  return problems;
}
