import type {
  HttpRouteObject,
  ParentRef,
  ReferenceGrantObject,
  RouteRetry,
  RouteRule,
} from "../../domain/http-route.js";
import { isDnsSubdomain } from "../../domain/kube-names.js";
import { readDuration } from "./duration.js";
import { Fields, portRange } from "./fields.js";
import { readMeta } from "./meta.js";
import { httpFilterTypes, readBackends, readFilters } from "./route-filter.js";
import { readMatches, routeLimits } from "./route-match.js";
import { present } from "./shared.js";

const gatewayGroup = "gateway.networking.k8s.io";
const mostParents = 32;

/** `spec.parentRefs` of any route. */
export function readParents(spec: Fields, namespace: string): ParentRef[] {
  const refs = spec.children("parentRefs");
  if (refs.length > mostParents)
    spec.report.error(spec.at("parentRefs"), { message: `has more than ${mostParents} entries` });
  return present(
    refs.map((ref) => {
      const name = ref.requiredString("name") ?? "";
      const parent: ParentRef = {
        group: ref.string("group") ?? gatewayGroup,
        kind: ref.string("kind") ?? "Gateway",
        namespace: ref.string("namespace") ?? namespace,
        name,
        sectionName: ref.string("sectionName"),
        port: ref.integer("port", portRange),
      };
      ref.refuseUnknown();
      return name === "" ? undefined : parent;
    }),
  );
}

/** Exact names, and wildcards of one leading label. */
export function readHostnames(spec: Fields): string[] {
  return present(
    spec.strings("hostnames").map(({ value, path }) => {
      const plain = value.startsWith("*.") ? value.slice(2) : value;
      if (isDnsSubdomain(plain)) return value;
      spec.report.error(path, {
        value,
        message: "is not a host name",
        hint: "such as a.example or *.example",
      });
      return undefined;
    }),
  );
}

function readRetry(rule: Fields): RouteRetry | undefined {
  const retry = rule.child("retry");
  if (!retry) return undefined;
  const codes = retry.items("codes").flatMap(({ value, path }) => {
    if (typeof value === "number" && Number.isInteger(value) && value >= 400 && value <= 599) return value;
    retry.report.error(path, { value, message: "must be a status from 400 to 599" });
    return [];
  });
  const read = {
    attempts: retry.integer("attempts", { min: 0, max: 100 }) ?? 1,
    codes,
    grpcCodes: [],
    // GEP-1731: connection errors are retried whatever codes are named.
    connectFailure: true,
    reset: true,
    perTryTimeoutMs: undefined,
    backoffMs: readDuration(retry, "backoff"),
  };
  retry.refuseUnknown();
  return read;
}

function readRule(rule: Fields, namespace: string): RouteRule {
  const scope = { namespace, types: httpFilterTypes };
  const timeouts = rule.child("timeouts");
  const requestMs = timeouts && readDuration(timeouts, "request");
  const backendRequestMs = timeouts && readDuration(timeouts, "backendRequest");
  timeouts?.refuseUnknown();
  if (timeouts && requestMs && backendRequestMs && backendRequestMs > requestMs) {
    timeouts.report.error(timeouts.at("backendRequest"), {
      value: timeouts.raw("backendRequest"),
      message: "is longer than the request's own timeout",
    });
  }
  if (rule.has("sessionPersistence")) {
    rule.report.unsupported(rule.at("sessionPersistence"), {
      message: "is not acted upon yet: requests of a session may reach different endpoints",
    });
  }
  const read: RouteRule = {
    name: rule.string("name") ?? "",
    matches: readMatches(rule),
    filters: readFilters(rule, scope),
    backends: readBackends(rule, scope),
    timeouts: { requestMs, backendRequestMs },
    retry: readRetry(rule),
  };
  rule.refuseUnknown();
  checkPrefixChanges(rule, read);
  return read;
}

/** Replacing a prefix needs one: every match of the rule has it. */
function checkPrefixChanges(rule: Fields, { matches, filters, backends }: RouteRule): void {
  const all = [...filters, ...backends.flatMap((backend) => backend.filters)];
  const replaces = all.some(
    (one) => (one.type === "rewrite" || one.type === "redirect") && one.path?.type === "prefix",
  );
  if (!replaces || matches.every(({ path }) => path?.type === "segments")) return;
  rule.report.error(rule.at("filters"), {
    message: "replaces a matched prefix, and a match of this rule is not of type PathPrefix",
  });
}

/** `spec.rules`. An absent list is one rule that matches everything (the CRD's default). */
export function readRules(spec: Fields, readRule: (rule: Fields) => RouteRule): RouteRule[] {
  const written = spec.children("rules");
  if (written.length > routeLimits.rules)
    spec.report.error(spec.at("rules"), { message: `has more than ${routeLimits.rules} entries` });
  const rules = spec.has("rules") ? written : [new Fields(spec.report, spec.at("rules"), {})];
  return rules.map(readRule);
}

export function decodeHttpRoute(root: Fields, apiVersion: string): HttpRouteObject {
  const { meta } = readMeta(root, apiVersion, { namespaced: true, name: "subdomain", unknown: "refuse" });
  const spec = root.childOrEmpty("spec");
  const parents = readParents(spec, meta.namespace);
  if (parents.length === 0 && !spec.has("parentRefs")) {
    spec.report.warning(spec.at("parentRefs"), {
      message: "is missing: the route is attached to nothing",
      hint: 'name a Service (kind: Service, group: "") for traffic inside the mesh, or a Gateway',
    });
  }
  const hostnames = readHostnames(spec);
  const rules = readRules(spec, (rule) => readRule(rule, meta.namespace));
  spec.accept("useDefaultGateways");
  spec.refuseUnknown();
  root.accept("status", "apiVersion", "kind", "metadata");
  root.refuseUnknown();
  return { kind: "HTTPRoute", meta, parents, hostnames, rules };
}

export function decodeReferenceGrant(root: Fields, apiVersion: string): ReferenceGrantObject {
  const { meta } = readMeta(root, apiVersion, { namespaced: true, name: "subdomain", unknown: "refuse" });
  const spec = root.childOrEmpty("spec");
  const from = spec.children("from").map((entry) => {
    const read = {
      group: entry.string("group") ?? "",
      kind: entry.requiredString("kind") ?? "",
      namespace: entry.requiredString("namespace") ?? "",
    };
    entry.refuseUnknown();
    return read;
  });
  const to = spec.children("to").map((entry) => {
    const read = {
      group: entry.string("group") ?? "",
      kind: entry.requiredString("kind") ?? "",
      name: entry.string("name"),
    };
    entry.refuseUnknown();
    return read;
  });
  for (const [key, list] of [
    ["from", from],
    ["to", to],
  ] as const) {
    if (list.length === 0 && !spec.has(key))
      spec.report.error(spec.at(key), { message: "is missing", hint: "list at least one entry" });
  }
  spec.refuseUnknown();
  return { kind: "ReferenceGrant", meta, from, to };
}
