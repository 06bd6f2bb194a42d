import type { CompiledAuthorization, CompiledMatch } from "../../compile/compiled.js";
import type { Cidr, StringMatch as DomainStringMatch } from "../../domain/objects.js";
import {
  Action,
  Scope,
  type Address,
  type Authorization,
  type Match,
  type Rule,
  type StringMatch,
} from "../../gen/istio/security/authorization.js";
import {
  AuthorizationExtension,
  AuthorizationExtension_Action,
  MatchExtension,
} from "../../gen/meltemi/v1/extensions.js";
import { addressBytes } from "./bytes.js";
import { encodeExtension } from "./extension.js";

const scopes: Readonly<Record<CompiledAuthorization["scope"], Scope>> = {
  global: Scope.GLOBAL,
  namespace: Scope.NAMESPACE,
  selector: Scope.WORKLOAD_SELECTOR,
};

function encodeString(match: DomainStringMatch): StringMatch {
  switch (match.type) {
    case "exact":
      return { matchType: { $case: "exact", value: match.value } };
    case "prefix":
      return { matchType: { $case: "prefix", value: match.value } };
    case "suffix":
      return { matchType: { $case: "suffix", value: match.value } };
    case "presence":
      return { matchType: { $case: "presence", value: {} } };
  }
}

function encodeCidr(cidr: Cidr): Address {
  return { address: addressBytes(cidr.address), length: cidr.length };
}

function encodeMatch(match: CompiledMatch): Match {
  const remote = match.remoteIps.length > 0 || match.notRemoteIps.length > 0;
  const accounts = (list: CompiledMatch["serviceAccounts"]): Match["serviceAccounts"] =>
    list.map(({ namespace, name }) => ({ namespace, serviceAccount: name }));
  return {
    namespaces: match.namespaces.map(encodeString),
    notNamespaces: match.notNamespaces.map(encodeString),
    serviceAccounts: accounts(match.serviceAccounts),
    notServiceAccounts: accounts(match.notServiceAccounts),
    principals: match.principals.map(encodeString),
    notPrincipals: match.notPrincipals.map(encodeString),
    sourceIps: match.sourceIps.map(encodeCidr),
    notSourceIps: match.notSourceIps.map(encodeCidr),
    destinationIps: match.destinationIps.map(encodeCidr),
    notDestinationIps: match.notDestinationIps.map(encodeCidr),
    destinationPorts: [...match.destinationPorts],
    notDestinationPorts: [...match.notDestinationPorts],
    extensions: remote
      ? [
          encodeExtension(
            "meltemi.v1.MatchExtension",
            MatchExtension.encode({
              remoteIps: match.remoteIps.map(encodeCidr),
              notRemoteIps: match.notRemoteIps.map(encodeCidr),
            }).finish(),
          ),
        ]
      : [],
  };
}

function encodeRules(rules: CompiledAuthorization["rules"]): Rule[] {
  return rules.map((clauses) => ({
    clauses: clauses.map((matches) => ({ matches: matches.map((match) => encodeMatch(match)) })),
  }));
}

/** In full, as our own proxies are told; what others are told is made of this (ambient-form.ts). */
export function encodeAuthorization(policy: CompiledAuthorization): Authorization {
  const audit = policy.action === "audit";
  const extension = AuthorizationExtension.encode({
    action: audit ? AuthorizationExtension_Action.AUDIT : AuthorizationExtension_Action.SAME,
    sourceObject: policy.sourceObject,
  }).finish();
  return {
    name: policy.name,
    namespace: policy.namespace,
    scope: scopes[policy.scope],
    action: policy.action === "allow" ? Action.ALLOW : Action.DENY,
    rules: encodeRules(policy.rules),
    dryRun: policy.dryRun || audit,
    extensions: [encodeExtension("meltemi.v1.AuthorizationExtension", extension)],
  };
}
