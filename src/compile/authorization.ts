/**
 * AuthorizationPolicy as a node's proxy can decide it: on connections, without HTTP. What needs HTTP
 * is handled as ambient documents: in an ALLOW, a rule that looks at HTTP is never met; in a DENY, its
 * HTTP part is left out. Either way less is let through than was asked for, never more.
 */
import { parseCidr } from "../domain/ip.js";
import { policyKey } from "../domain/ids.js";
import type {
  AuthorizationCondition,
  AuthorizationOperation,
  AuthorizationPolicyObject,
  AuthorizationRule,
  AuthorizationSource,
  Matches,
} from "../domain/objects.js";
import { parseStringMatch } from "../domain/string-match.js";
import type { CompiledAuthorization, CompiledMatch } from "./compiled.js";
import type { CompileConfig } from "./config.js";
import { isEmptyMatch, match } from "./match.js";

type Rule = readonly (readonly CompiledMatch[])[];

/** A rule taken apart: what connections can be asked, and the names of the fields that only requests can. */
interface RuleParts {
  readonly clauses: Rule;
  readonly http: readonly string[];
}

function used<T>(matches: Matches<T>, name: string): string[] {
  const negated = `not${name.charAt(0).toUpperCase()}${name.slice(1)}`;
  return [...(matches.any.length > 0 ? [name] : []), ...(matches.none.length > 0 ? [negated] : [])];
}

function httpOfOperation(operation: AuthorizationOperation): string[] {
  return [
    ...used(operation.hosts, "hosts"),
    ...used(operation.methods, "methods"),
    ...used(operation.paths, "paths"),
  ];
}

function matchOfSource(source: AuthorizationSource): CompiledMatch {
  return match({
    principals: source.principals.any,
    notPrincipals: source.principals.none,
    namespaces: source.namespaces.any,
    notNamespaces: source.namespaces.none,
    serviceAccounts: source.serviceAccounts.any,
    notServiceAccounts: source.serviceAccounts.none,
    sourceIps: source.ipBlocks.any,
    notSourceIps: source.ipBlocks.none,
    remoteIps: source.remoteIpBlocks.any,
    notRemoteIps: source.remoteIpBlocks.none,
  });
}

function parsed<T>(values: Matches<string>, parse: (text: string) => T | undefined): Matches<T> | undefined {
  const all = (list: readonly string[]): T[] => list.map(parse).filter((value) => value !== undefined);
  const [any, none] = [all(values.any), all(values.none)];
  return any.length === values.any.length && none.length === values.none.length ? { any, none } : undefined;
}

function parsePort(text: string): number | undefined {
  const port = /^\d{1,5}$/.test(text) ? Number(text) : undefined;
  return port !== undefined && port >= 1 && port <= 65_535 ? port : undefined;
}

/** A condition on the connection; undefined for keys that only a request has (and for values that do not read). */
function matchOfCondition(condition: AuthorizationCondition, namespace: string): CompiledMatch | undefined {
  const { key, values } = condition;
  const account = (text: string): { namespace: string; name: string } => {
    const slash = text.indexOf("/");
    return slash < 0
      ? { namespace, name: text }
      : { namespace: text.slice(0, slash), name: text.slice(slash + 1) };
  };
  switch (key) {
    case "source.ip": {
      const ips = parsed(values, parseCidr);
      return ips && match({ sourceIps: ips.any, notSourceIps: ips.none });
    }
    case "remote.ip": {
      const ips = parsed(values, parseCidr);
      return ips && match({ remoteIps: ips.any, notRemoteIps: ips.none });
    }
    case "destination.ip": {
      const ips = parsed(values, parseCidr);
      return ips && match({ destinationIps: ips.any, notDestinationIps: ips.none });
    }
    case "destination.port": {
      const ports = parsed(values, parsePort);
      return ports && match({ destinationPorts: ports.any, notDestinationPorts: ports.none });
    }
    case "source.namespace": {
      const names = parsed(values, parseStringMatch);
      return names && match({ namespaces: names.any, notNamespaces: names.none });
    }
    case "source.principal": {
      const principals = parsed(values, parseStringMatch);
      return principals && match({ principals: principals.any, notPrincipals: principals.none });
    }
    case "source.serviceAccount":
      return match({
        serviceAccounts: values.any.map(account),
        notServiceAccounts: values.none.map(account),
      });
    default:
      return undefined;
  }
}

function takeApart(rule: AuthorizationRule, namespace: string): RuleParts {
  const http = [
    ...rule.to.flatMap(httpOfOperation),
    ...rule.from.flatMap((source) => used(source.requestPrincipals, "requestPrincipals")),
  ];
  const clauses: (readonly CompiledMatch[])[] = [];
  const to = rule.to.map(({ ports }) =>
    match({ destinationPorts: ports.any, notDestinationPorts: ports.none }),
  );
  if (to.length > 0) clauses.push(to);
  if (rule.from.length > 0) clauses.push(rule.from.map(matchOfSource));
  for (const condition of rule.when) {
    const compiled = matchOfCondition(condition, namespace);
    if (compiled) clauses.push([compiled]);
    else http.push(condition.key);
  }
  return { clauses: withoutEmpty(clauses), http };
}

/** A clause that anything meets is no clause; proxies disagree on what an empty match means. */
function withoutEmpty(clauses: Rule): Rule {
  return clauses.filter((clause) => !clause.some(isEmptyMatch));
}

/** Whether it looks at the original client, which ambient's types cannot say (xds/ambient-form.ts). */
export function looksAtOriginalClient({ rules }: CompiledAuthorization): boolean {
  const looks = ({ remoteIps, notRemoteIps }: CompiledMatch): boolean =>
    remoteIps.length > 0 || notRemoteIps.length > 0;
  return rules.some((rule) => rule.some((clause) => clause.some(looks)));
}

export interface AuthorizationOutcome {
  readonly compiled: CompiledAuthorization | undefined;
  /** Fields that need HTTP, sorted. */
  readonly http: readonly string[];
}

const actions = { ALLOW: "allow", DENY: "deny", AUDIT: "audit" } as const;

/** Whether the policy is one that node proxies are sent. */
export function isForNodes(policy: AuthorizationPolicyObject): boolean {
  return policy.targetRefs.length === 0 && policy.action !== "CUSTOM";
}

export function scopeOf(
  policy: AuthorizationPolicyObject,
  config: CompileConfig,
): CompiledAuthorization["scope"] {
  if (policy.selector) return "selector";
  return config.rootNamespaces.includes(policy.meta.namespace) ? "global" : "namespace";
}

export function compileAuthorization(
  policy: AuthorizationPolicyObject,
  config: CompileConfig,
): AuthorizationOutcome {
  if (policy.action === "CUSTOM" || !isForNodes(policy)) return { compiled: undefined, http: [] };
  const { namespace, name } = policy.meta;
  const action = actions[policy.action];
  const parts = policy.rules.map((rule) => takeApart(rule, namespace));
  // An audit that cannot look at the request would report what did not happen: left out, as in an ALLOW.
  const kept = action === "deny" ? parts : parts.filter(({ http }) => http.length === 0);
  const rules = kept.map(({ clauses }) => clauses);
  return {
    http: [...new Set(parts.flatMap(({ http }) => http))].sort(),
    compiled: {
      type: "authorization",
      key: policyKey(namespace, name),
      name,
      namespace,
      scope: scopeOf(policy, config),
      action,
      dryRun: policy.dryRun,
      rules,
      sourceObject: `AuthorizationPolicy/${namespace}/${name}`,
    },
  };
}
