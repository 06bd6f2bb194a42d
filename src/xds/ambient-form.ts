import { Action, type Authorization, type Match, type Rule } from "../gen/istio/security/authorization.js";
import {
  AuthorizationExtension,
  AuthorizationExtension_Action,
  MatchExtension,
} from "../gen/meltemi/v1/extensions.js";
import type { Extension } from "../gen/istio/workload/workload.js";

/**
 * The safe subset of a policy for a proxy that knows only ambient's types (wire-contract.md): an AUDIT
 * decides nothing and is left out (null); a rule that also looks at the original client is never met in
 * an ALLOW, and is taken without that part in a DENY, which is stricter.
 */
export function ambientForm(policy: Authorization): Authorization | null {
  const extension = bytesOf(policy.extensions, "meltemi.v1.AuthorizationExtension");
  if (extension && AuthorizationExtension.decode(extension).action === AuthorizationExtension_Action.AUDIT)
    return null;
  const rules = policy.rules.flatMap((rule) => ambientRule(rule, policy.action));
  return { ...policy, rules, extensions: [] };
}

function bytesOf(extensions: readonly Extension[], name: string): Buffer | undefined {
  return extensions.find((extension) => extension.name === name)?.config?.value;
}

function looksAtOriginalClient(match: Match): boolean {
  const bytes = bytesOf(match.extensions, "meltemi.v1.MatchExtension");
  if (!bytes) return false;
  const { remoteIps, notRemoteIps } = MatchExtension.decode(bytes);
  return remoteIps.length > 0 || notRemoteIps.length > 0;
}

function ambientRule(rule: Rule, action: Action): Rule[] {
  const beyond = rule.clauses.some((clause) => clause.matches.some(looksAtOriginalClient));
  if (beyond && action === Action.ALLOW) return [];
  const clauses = rule.clauses
    .map(({ matches }) => ({ matches: matches.map((match) => ({ ...match, extensions: [] })) }))
    // A match of nothing would never be met there, while here it is met by everything.
    .filter(({ matches }) => !matches.some(isEmpty));
  return [{ clauses }];
}

function isEmpty(match: Match): boolean {
  return Object.values(match).every((field: readonly unknown[]) => field.length === 0);
}
