import type {
  BackendRef,
  HeaderChange,
  PathChange,
  RouteFilter,
  TextMatcher,
  WeightedBackend,
} from "../../domain/http-route.js";
import { isDnsSubdomain } from "../../domain/kube-names.js";
import { type Fields, portRange } from "./fields.js";
import { checkHeaderName, checkPath, routeLimits } from "./route-match.js";
import { present } from "./shared.js";

const filterTypes = [
  "RequestHeaderModifier",
  "ResponseHeaderModifier",
  "RequestMirror",
  "RequestRedirect",
  "URLRewrite",
  "CORS",
  "ExtensionRef",
] as const;
type FilterType = (typeof filterTypes)[number];

/** The field that goes with a type. */
const fieldOf: Readonly<Record<FilterType, string>> = {
  RequestHeaderModifier: "requestHeaderModifier",
  ResponseHeaderModifier: "responseHeaderModifier",
  RequestMirror: "requestMirror",
  RequestRedirect: "requestRedirect",
  URLRewrite: "urlRewrite",
  CORS: "cors",
  ExtensionRef: "extensionRef",
};
const redirectStatuses = [301, 302, 303, 307, 308];

function readHeaderValues(change: Fields, key: "set" | "add"): { name: string; value: string }[] {
  return present(
    change.children(key).map((entry) => {
      const name = entry.requiredString("name") ?? "";
      const value = entry.string("value") ?? "";
      entry.refuseUnknown();
      if (/[\r\n\0]/.test(value))
        entry.report.error(entry.at("value"), { value, message: "contains a line break" });
      if (name === "" || !checkHeaderName(entry, "name", name)) return undefined;
      checkChangeable(entry, "name", name);
      return { name, value };
    }),
  );
}

/** Only the proxy itself says where a message ends. */
const framing = new Set(["connection", "content-length", "transfer-encoding", "upgrade", "te", "trailer"]);

/** Reports a header that no rule may change. */
export function checkChangeable(fields: Fields, key: string, name: string): void {
  if (!framing.has(name.toLowerCase())) return;
  const message = "belongs to the message's framing: no rule can change it";
  fields.report.error(fields.at(key), { value: name, message });
}

function readHeaderChange(change: Fields): HeaderChange {
  const read = {
    set: readHeaderValues(change, "set"),
    add: readHeaderValues(change, "add"),
    remove: change.strings("remove").map(({ value }) => value),
  };
  for (const name of read.remove) checkChangeable(change, "remove", name);
  change.refuseUnknown();
  return read;
}

function readPathChange(parent: Fields): PathChange | undefined {
  const path = parent.child("path");
  if (!path) return undefined;
  const type = path.choice("type", ["ReplaceFullPath", "ReplacePrefixMatch"], "ReplaceFullPath");
  const key = type === "ReplaceFullPath" ? "replaceFullPath" : "replacePrefixMatch";
  const value = path.string(key);
  path.refuseUnknown();
  if (value === undefined) {
    path.report.error(path.at(key), { message: `is missing, and type is ${type}` });
    return undefined;
  }
  if (type === "ReplaceFullPath" || value !== "") checkPath(path, key, value);
  return type === "ReplaceFullPath" ? { type: "full", value } : { type: "prefix", value };
}

function readHostname(fields: Fields, key: string): string | undefined {
  const hostname = fields.string(key);
  if (hostname !== undefined && !isDnsSubdomain(hostname)) {
    fields.report.error(fields.at(key), { value: hostname, message: "is not a host name" });
    return undefined;
  }
  return hostname;
}

function readRedirect(redirect: Fields): RouteFilter {
  const status = redirect.integer("statusCode", { min: 300, max: 399 }) ?? 302;
  if (!redirectStatuses.includes(status)) {
    redirect.report.error(redirect.at("statusCode"), {
      value: status,
      message: "is not a redirect's status",
      hint: `one of: ${redirectStatuses.join(", ")}`,
    });
  }
  const scheme = redirect.string("scheme");
  if (scheme !== undefined && scheme !== "http" && scheme !== "https")
    redirect.report.error(redirect.at("scheme"), { value: scheme, message: "must be http or https" });
  const read: RouteFilter = {
    type: "redirect",
    scheme,
    hostname: readHostname(redirect, "hostname"),
    port: redirect.integer("port", portRange),
    path: readPathChange(redirect),
    status,
  };
  redirect.refuseUnknown();
  return read;
}

/** Of a million requests: `percent`, or `fraction`; all where neither is given. */
function readShare(mirror: Fields): number {
  const percent = mirror.integer("percent", { min: 0, max: 100 });
  const fraction = mirror.child("fraction");
  if (percent !== undefined && fraction) {
    mirror.report.error(mirror.at("fraction"), {
      message: "stands beside percent",
      hint: "keep one of them",
    });
  }
  if (percent !== undefined) return percent * 10_000;
  if (!fraction) return 1_000_000;
  const numerator = fraction.integer("numerator", { min: 0, max: 0x7fffffff }) ?? 0;
  const denominator = fraction.integer("denominator", { min: 1, max: 0x7fffffff }) ?? 100;
  fraction.refuseUnknown();
  if (numerator > denominator) {
    fraction.report.error(fraction.at("numerator"), {
      value: numerator,
      message: "is more than the denominator",
    });
  }
  return Math.min(1_000_000, Math.round((numerator / denominator) * 1_000_000));
}

/** A backend's reference. `namespace` is the route's, where it names none. */
export function readBackendRef(fields: Fields, namespace: string): BackendRef | undefined {
  const group = fields.string("group") ?? "";
  const kind = fields.string("kind") ?? "Service";
  const name = fields.requiredString("name") ?? "";
  const port = fields.integer("port", portRange);
  if (group === "" && kind === "Service" && port === undefined && !fields.has("port")) {
    fields.report.error(fields.at("port"), {
      message: "is missing",
      hint: "a Service is named with its port",
    });
  }
  if (name === "") return undefined;
  return { group, kind, namespace: fields.string("namespace") ?? namespace, name, port };
}

function readMirror(mirror: Fields, namespace: string): RouteFilter | undefined {
  const ref = mirror.childOrEmpty("backendRef");
  const backend = readBackendRef(ref, namespace);
  ref.refuseUnknown();
  const perMillion = readShare(mirror);
  mirror.refuseUnknown();
  return backend && { type: "mirror", backend, perMillion };
}

/** `*`, `https://*.example` (one or more labels), or an origin as it is. */
function originMatcher(origin: string): TextMatcher {
  if (!origin.includes("*")) return { type: "exact", value: origin };
  const parts = origin.split("*").map((part) => part.replace(/[.+?^${}()|[\]\\/]/g, "\\$&"));
  return { type: "regex", value: parts.join(origin === "*" ? ".*" : "[^/:]+") };
}

function readCors(cors: Fields): RouteFilter {
  const texts = (key: string): string[] => cors.strings(key).map(({ value }) => value);
  const read: RouteFilter = {
    type: "cors",
    allowOrigins: texts("allowOrigins").map(originMatcher),
    allowMethods: texts("allowMethods"),
    allowHeaders: texts("allowHeaders"),
    exposeHeaders: texts("exposeHeaders"),
    maxAgeS: cors.integer("maxAge", { min: 1, max: 0x7fffffff }) ?? 5,
    allowCredentials: cors.boolean("allowCredentials") ?? false,
  };
  cors.refuseUnknown();
  return read;
}

function readFilter(filter: Fields, scope: FilterScope): RouteFilter | undefined {
  if (!filter.has("type")) filter.report.error(filter.at("type"), { message: "is missing" });
  const type = filter.choice("type", scope.types, "ExtensionRef");
  const key = fieldOf[type];
  const fields = filter.child(key);
  filter.refuseUnknown();
  if (!fields) {
    if (!filter.has(key) && filter.has("type"))
      filter.report.error(filter.at(key), { message: `is missing, and type is ${type}` });
    return undefined;
  }
  switch (type) {
    case "RequestHeaderModifier":
      return { type: "request_headers", change: readHeaderChange(fields) };
    case "ResponseHeaderModifier":
      return { type: "response_headers", change: readHeaderChange(fields) };
    case "RequestMirror":
      return readMirror(fields, scope.namespace);
    case "RequestRedirect":
      return readRedirect(fields);
    case "URLRewrite": {
      const hostname = readHostname(fields, "hostname");
      const path = readPathChange(fields);
      fields.refuseUnknown();
      return { type: "rewrite", hostname, path };
    }
    case "CORS":
      return readCors(fields);
    case "ExtensionRef":
      // Dropping a filter would send on what it was to change or to stop.
      filter.report.error(filter.at(key), {
        message: "extensions are not supported",
        hint: "remove the filter, or its rule",
      });
      return undefined;
  }
}

/** What the filters of one kind of route may be, and the route's own namespace. */
export interface FilterScope {
  readonly namespace: string;
  readonly types: readonly FilterType[];
}

export const httpFilterTypes: readonly FilterType[] = filterTypes;
export const grpcFilterTypes: readonly FilterType[] = [
  "RequestHeaderModifier",
  "ResponseHeaderModifier",
  "RequestMirror",
  "ExtensionRef",
];

/** `filters` of a rule or of a backend: each type once, but for mirrors. */
export function readFilters(parent: Fields, scope: FilterScope): RouteFilter[] {
  const filters = parent.children("filters");
  if (filters.length > routeLimits.filters)
    parent.report.error(parent.at("filters"), { message: `has more than ${routeLimits.filters} entries` });
  const seen = new Set<string>();
  const read = present(
    filters.map((filter) => {
      const one = readFilter(filter, scope);
      if (one && one.type !== "mirror" && seen.has(one.type)) {
        filter.report.error(filter.at("type"), {
          value: filter.raw("type"),
          message: "is the type of an earlier filter of this list",
        });
      }
      if (one) seen.add(one.type);
      return one;
    }),
  );
  if (seen.has("redirect") && seen.has("rewrite")) {
    parent.report.error(parent.at("filters"), {
      message: "redirects and rewrites the same request",
      hint: "keep one of RequestRedirect and URLRewrite",
    });
  }
  return read;
}

/** `backendRefs` of a rule. */
export function readBackends(rule: Fields, scope: FilterScope): WeightedBackend[] {
  const refs = rule.children("backendRefs");
  if (refs.length > routeLimits.backends)
    rule.report.error(rule.at("backendRefs"), { message: `has more than ${routeLimits.backends} entries` });
  return present(
    refs.map((ref) => {
      const backend = readBackendRef(ref, scope.namespace);
      const weight = ref.integer("weight", { min: 0, max: 1_000_000 }) ?? 1;
      const filters = readFilters(ref, scope);
      ref.refuseUnknown();
      return backend && { ...backend, weight, filters };
    }),
  );
}
