import { isDnsLabel, isDnsSubdomain } from "../../domain/kube-names.js";
import type { AuthorizationSource, Cidr, Matches, StringMatch } from "../../domain/objects.js";
import { parseStringMatch } from "../../domain/string-match.js";
import type { Fields } from "./fields.js";
import { readPrincipal } from "./principal.js";
import type { Report } from "./report.js";
import { present, readCidr } from "./shared.js";

type Read<T> = (report: Report, path: string, text: string) => T | undefined;

/** `principals` -> `notPrincipals`. */
function negated(key: string): string {
  return `not${key.charAt(0).toUpperCase()}${key.slice(1)}`;
}

function readList<T>(fields: Fields, key: string, read: Read<T>): T[] {
  const written = fields.strings(key);
  if (fields.isEmptyList(key)) {
    fields.report.error(fields.at(key), {
      message: "is an empty list, which could mean everything or nothing",
      hint: "remove the field, or list what is meant",
    });
  }
  return present(written.map(({ value, path }) => read(fields.report, path, value)));
}

/** A list and its negation, each entry read by `read`. */
export function readMatches<T>(fields: Fields, key: string, read: Read<T>): Matches<T> {
  return { any: readList(fields, key, read), none: readList(fields, negated(key), read) };
}

/** Any string with a star at one end. */
export function readPattern(report: Report, path: string, text: string): StringMatch | undefined {
  const match = parseStringMatch(text);
  if (match) return match;
  const message = text === "" ? "is empty" : "may have one * at its beginning or its end";
  report.error(path, { value: text, message, hint: '"abc", "abc*", "*abc" or "*"' });
  return undefined;
}

/** A namespace's name, or a pattern that a name could match. */
export function readNamespacePattern(report: Report, path: string, text: string): StringMatch | undefined {
  const match = readPattern(report, path, text);
  if (!match || match.type === "presence") return match;
  const possible = match.type === "exact" ? isDnsLabel(match.value) : /^[-a-z0-9]+$/.test(match.value);
  if (possible) return match;
  const hint = text.includes("/") ? "principals and serviceAccounts have fields of their own" : undefined;
  report.error(path, { value: text, message: "can match no namespace", hint });
  return undefined;
}

/** `NAMESPACE/NAME`, or `NAME` of the policy's own namespace. */
export function serviceAccountReader(
  policyNamespace: string,
): Read<{ readonly namespace: string; readonly name: string }> {
  return (report, path, text) => {
    const slash = text.indexOf("/");
    const namespace = slash < 0 ? policyNamespace : text.slice(0, slash);
    const name = text.slice(slash + 1);
    if (isDnsLabel(namespace) && isDnsSubdomain(name)) return { namespace, name };
    const hint = text.includes("*")
      ? "serviceAccounts take no *; to match by pattern use principals"
      : 'write "NAMESPACE/NAME", or "NAME" for an account of the policy\'s namespace';
    report.error(path, { value: text, message: "is not a service account", hint });
    return undefined;
  };
}

/** Whether a list or its negation says anything. */
export function constrains(matches: Matches<unknown>): boolean {
  return matches.any.length + matches.none.length > 0;
}

function readSource(source: Fields, policyNamespace: string): AuthorizationSource {
  const before = source.report.problems.length;
  const read: AuthorizationSource = {
    principals: readMatches(source, "principals", readPrincipal),
    requestPrincipals: readMatches(source, "requestPrincipals", readPattern),
    namespaces: readMatches(source, "namespaces", readNamespacePattern),
    serviceAccounts: readMatches(source, "serviceAccounts", serviceAccountReader(policyNamespace)),
    ipBlocks: readMatches<Cidr>(source, "ipBlocks", readCidr),
    remoteIpBlocks: readMatches<Cidr>(source, "remoteIpBlocks", readCidr),
  };
  source.refuseUnknown();
  const empty = !Object.values(read).some((matches: Matches<unknown>) => constrains(matches));
  if (empty && source.report.problems.length === before) {
    const hint = "leave `from` out to match any source";
    source.report.error(source.path, { message: "says nothing", hint });
  }
  if (constrains(read.serviceAccounts) && (constrains(read.principals) || constrains(read.namespaces))) {
    source.report.error(source.at("serviceAccounts"), {
      message: "cannot stand beside principals or namespaces in one source",
      hint: "write a second entry of `from`",
    });
  }
  return read;
}

/** `rules[].from[]`: each entry has exactly `source`. */
export function readFrom(rule: Fields, policyNamespace: string): AuthorizationSource[] {
  const entries = rule.children("from").map((entry) => {
    const source = entry.child("source");
    if (!source && !entry.has("source")) entry.report.error(entry.at("source"), { message: "is missing" });
    const read = source && readSource(source, policyNamespace);
    entry.refuseUnknown();
    return read;
  });
  refuseEmpty(rule, "from");
  return present(entries);
}

/** `from: []` and `to: []` are refused, as Istio does: an absent field is how "any" is written. */
export function refuseEmpty(rule: Fields, key: string): void {
  if (rule.isEmptyList(key)) {
    rule.report.error(rule.at(key), {
      message: "is an empty list",
      hint: `leave \`${key}\` out to match any`,
    });
  }
}
