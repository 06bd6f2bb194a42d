import { didYouMean } from "../../domain/nearest.js";
import type { AuthorizationCondition } from "../../domain/objects.js";
import { readPortText } from "./authorization-operation.js";
import {
  readMatches,
  readNamespacePattern,
  readPattern,
  serviceAccountReader,
} from "./authorization-source.js";
import type { Fields } from "./fields.js";
import { readPrincipal } from "./principal.js";
import type { Report } from "./report.js";
import { readCidr } from "./shared.js";

type CheckValue = (report: Report, path: string, text: string) => unknown;

/** Keys without a bracket, and how their values read (Istio, "Authorization Policy Conditions"). */
const plainKeys = new Map<string, CheckValue>([
  ["source.ip", readCidr],
  ["remote.ip", readCidr],
  ["source.namespace", readNamespacePattern],
  ["source.principal", readPrincipal],
  ["request.auth.principal", readPattern],
  ["request.auth.audiences", readPattern],
  ["request.auth.presenter", readPattern],
  ["destination.ip", readCidr],
  ["destination.port", readPortText],
  ["connection.sni", readPattern],
]);
const serviceAccountKey = "source.serviceAccount";

/** `NAME[...]`; claims may be nested. */
const bracketKeys = [/^request\.headers\[[^[\]]+\]$/, /^request\.auth\.claims(\[[^[\]]+\])+$/];
const examples = [
  ...plainKeys.keys(),
  serviceAccountKey,
  "request.headers[NAME]",
  "request.auth.claims[NAME]",
];

/** Keys of Istio's first form of policies, and what replaced them. */
const replaced = new Map([
  ["destination.namespace", "use the policy's own metadata.namespace"],
  ["destination.name", "use the policy's selector or targetRefs"],
  ["destination.user", "use the policy's selector"],
]);

function checkOf(key: string, policyNamespace: string): CheckValue | undefined {
  if (key === serviceAccountKey) return serviceAccountReader(policyNamespace);
  return plainKeys.get(key) ?? (bracketKeys.some((pattern) => pattern.test(key)) ? readPattern : undefined);
}

function hintFor(key: string): string {
  if (key.startsWith("experimental.envoy.filters."))
    return "it asks for what a filter of Envoy's has found out, and this mesh's proxies are not Envoy";
  if (key.startsWith("destination.labels")) return "use the policy's selector";
  const bare = key.replace(/\[.*$/, "");
  if (["request.headers", "request.auth.claims"].includes(bare)) return `write ${bare}[NAME]`;
  return replaced.get(key) ?? didYouMean(key, examples) ?? `known: ${examples.join(", ")}`;
}

/** `rules[].when[]`: the values are kept as written, each known to be readable for its key. */
export function readCondition(when: Fields, policyNamespace: string): AuthorizationCondition | undefined {
  const key = when.requiredString("key");
  const check = key === undefined ? undefined : checkOf(key, policyNamespace);
  if (key !== undefined && !check) {
    when.report.error(when.at("key"), {
      value: key,
      message: "is not a condition's key",
      hint: hintFor(key),
    });
  }
  const values = readMatches(when, "values", (report, path, text) => {
    if (check === undefined) return text;
    return check(report, path, text) === undefined ? undefined : text;
  });
  if (!when.has("values") && !when.has("notValues")) {
    when.report.error(when.at("values"), { message: "is missing", hint: "list values or notValues" });
  }
  when.refuseUnknown();
  return key === undefined || !check ? undefined : { key, values };
}
