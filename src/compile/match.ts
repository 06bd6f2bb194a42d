import type { CompiledMatch } from "./compiled.js";

const empty: CompiledMatch = {
  namespaces: [],
  notNamespaces: [],
  serviceAccounts: [],
  notServiceAccounts: [],
  principals: [],
  notPrincipals: [],
  sourceIps: [],
  notSourceIps: [],
  remoteIps: [],
  notRemoteIps: [],
  destinationIps: [],
  notDestinationIps: [],
  destinationPorts: [],
  notDestinationPorts: [],
};

/** A match with the given fields set. */
export function match(fields: Partial<CompiledMatch>): CompiledMatch {
  return { ...empty, ...fields };
}

/** Whether nothing is set, so that everything matches. */
export function isEmptyMatch(candidate: CompiledMatch): boolean {
  return Object.values(candidate).every((field: readonly unknown[]) => field.length === 0);
}
