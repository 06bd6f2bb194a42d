import type { GrpcRouteObject, PathMatcher, RouteMatch, RouteRule } from "../../domain/http-route.js";
import type { Fields } from "./fields.js";
import { readHostnames, readParents, readRules } from "./http-route.js";
import { readMeta } from "./meta.js";
import { grpcFilterTypes, readBackends, readFilters } from "./route-filter.js";
import { readNamed, readRegex, routeLimits } from "./route-match.js";

/** A method as the path that gRPC gives it: `/SERVICE/METHOD`. */
function readMethod(match: Fields): PathMatcher | undefined {
  const method = match.child("method");
  if (!method) return undefined;
  const type = method.choice("type", ["Exact", "RegularExpression"], "Exact");
  const service = method.string("service") || undefined;
  const name = method.string("method") || undefined;
  method.refuseUnknown();
  if (service === undefined && name === undefined) {
    method.report.error(method.path, { message: "names neither a service nor a method" });
    return undefined;
  }
  if (type === "RegularExpression") {
    if (service !== undefined) readRegex(method, "service", service);
    if (name !== undefined) readRegex(method, "method", name);
    return { type: "regex", value: `/(?:${service ?? "[^/]+"})/(?:${name ?? "[^/]+"})` };
  }
  for (const [key, value] of [
    ["service", service],
    ["method", name],
  ] as const) {
    if (value?.includes("/") === true)
      method.report.error(method.at(key), { value, message: "contains a /" });
  }
  if (service === undefined) return { type: "grpc_method", value: name ?? "" };
  return name === undefined
    ? { type: "segments", value: `/${service}` }
    : { type: "exact", value: `/${service}/${name}` };
}

function readMatch(match: Fields): RouteMatch {
  const read: RouteMatch = {
    path: readMethod(match),
    method: undefined,
    headers: readNamed(match, "headers", "header"),
    query: [],
  };
  match.refuseUnknown();
  return read;
}

function readRule(rule: Fields, namespace: string): RouteRule {
  const scope = { namespace, types: grpcFilterTypes };
  const matches = rule.children("matches");
  if (matches.length > routeLimits.matches)
    rule.report.error(rule.at("matches"), { message: `has more than ${routeLimits.matches} entries` });
  if (rule.has("sessionPersistence")) {
    rule.report.unsupported(rule.at("sessionPersistence"), {
      message: "is not acted upon yet: requests of a session may reach different endpoints",
    });
  }
  const read: RouteRule = {
    name: rule.string("name") ?? "",
    matches:
      matches.length > 0
        ? matches.map(readMatch)
        : [{ path: undefined, method: undefined, headers: [], query: [] }],
    filters: readFilters(rule, scope),
    backends: readBackends(rule, scope),
    timeouts: { requestMs: undefined, backendRequestMs: undefined },
    retry: undefined,
  };
  rule.refuseUnknown();
  return read;
}

export function decodeGrpcRoute(root: Fields, apiVersion: string): GrpcRouteObject {
  const { meta } = readMeta(root, apiVersion, { namespaced: true, name: "subdomain", unknown: "refuse" });
  const spec = root.childOrEmpty("spec");
  const parents = readParents(spec, meta.namespace);
  const hostnames = readHostnames(spec);
  const rules = readRules(spec, (rule) => readRule(rule, meta.namespace));
  spec.accept("useDefaultGateways");
  spec.refuseUnknown();
  root.accept("status", "apiVersion", "kind", "metadata");
  root.refuseUnknown();
  return { kind: "GRPCRoute", meta, parents, hostnames, rules };
}
