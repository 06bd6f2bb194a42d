import type { RouteMatch } from "../../domain/http-route.js";
import type {
  VirtualFilter,
  VirtualRule,
  VirtualServiceObject,
  WeightedDestination,
} from "../../domain/virtual-service.js";
import { readIstioDuration } from "./duration.js";
import type { Fields } from "./fields.js";
import { checkHost, readExportTo } from "./istio-host.js";
import { readMeta } from "./meta.js";
import { present } from "./shared.js";
import { readFault } from "./virtual-fault.js";
import {
  readCorsPolicy,
  readDestination,
  readDirectResponse,
  readHeaders,
  readMirrors,
  readRewrite,
  readVirtualRedirect,
} from "./virtual-filter.js";
import { readVirtualMatch } from "./virtual-match.js";
import { readVirtualRetry } from "./virtual-retry.js";

const everything: RouteMatch = { path: undefined, method: undefined, headers: [], query: [] };

function readRoute(rule: Fields): WeightedDestination[] {
  const entries = rule.children("route");
  const read = entries.map((entry): WeightedDestination | undefined => {
    const destination = readDestination(entry.childOrEmpty("destination"));
    const weight = entry.integer("weight", { min: 0, max: 0x7fffffff });
    const filters = readHeaders(entry);
    entry.refuseUnknown();
    // An only destination takes everything, whatever its weight.
    return destination && { ...destination, weight: entries.length === 1 ? 1 : (weight ?? 0), filters };
  });
  const destinations = present(read);
  if (destinations.length === entries.length && entries.length > 1) {
    const sum = destinations.reduce((total, { weight }) => total + weight, 0);
    if (sum === 0 || sum > 0xffff_ffff) {
      const message = sum === 0 ? "has no weight: nothing would take the requests" : "has too large weights";
      rule.report.error(rule.at("route"), { message, hint: "give weights that add up to 100" });
    }
  }
  return destinations;
}

/** What is done with a rule's requests: exactly one of route, redirect and directResponse. */
function checkAction(rule: Fields): void {
  if (rule.has("delegate")) {
    rule.report.error(rule.at("delegate"), {
      message: "is not supported yet: rules of another VirtualService are not taken over",
      hint: "write the rules here",
    });
    return;
  }
  const given = ["route", "redirect", "directResponse"].filter((key) => rule.has(key));
  if (given.length === 0)
    rule.report.error(rule.at("route"), {
      message: "is missing",
      hint: "or write redirect or directResponse",
    });
  if (given.length > 1) {
    const message = `stands beside ${given.slice(1).join(" and ")}`;
    rule.report.error(rule.at(given[0] ?? "route"), { message, hint: "keep one of them" });
  }
}

/**
 * One rule as it is written is several where a rewrite means another thing for some of its matches: a prefix that is
 * replaced, or, for a regular expression, the whole path. None where all its matches are for gateways.
 */
function readRule(rule: Fields): VirtualRule[] {
  checkAction(rule);
  const written = rule.children("match");
  const read = written.map(readVirtualMatch);
  const matches = written.length === 0 ? [everything] : present(read);
  const rewrite = rule.child("rewrite");
  const redirect = rule.child("redirect");
  const response = rule.child("directResponse");
  const fault = rule.child("fault");
  const cors = rule.child("corsPolicy");
  const destinations = readRoute(rule);
  if (rewrite && destinations.length === 0 && !rule.has("delegate"))
    rule.report.error(rule.at("rewrite"), { message: "needs a route: nothing is sent on" });
  const before: VirtualFilter[] = [
    ...(cors ? [readCorsPolicy(cors)] : []),
    ...(fault ? [readFault(fault)] : []),
    ...readHeaders(rule),
    ...readMirrors(rule),
  ];
  const after: VirtualFilter[] = [
    ...(redirect ? [readVirtualRedirect(redirect)] : []),
    ...(response ? [readDirectResponse(response)] : []),
  ];
  const common = {
    name: rule.string("name") ?? "",
    destinations,
    timeoutMs: readIstioDuration(rule, "timeout"),
    retry: readVirtualRetry(rule),
  };
  rule.accept("statPrefix", "delegate");
  rule.refuseUnknown();
  if (!rewrite) return matches.length === 0 ? [] : [{ ...common, matches, filters: [...before, ...after] }];
  const isWhole = ({ path }: RouteMatch): boolean => path?.type === "regex";
  const uniform = new Set(matches.map(isWhole)).size === 1;
  return (uniform ? [matches] : matches.map((match) => [match])).flatMap((some) => {
    const [first] = some;
    if (!first) return [];
    const filter = readRewrite(rewrite, isWhole(first));
    // Istio: a match without a path is the prefix "/", which is what a rewrite replaces.
    const based = some.map((match) =>
      match.path || filter?.type !== "rewrite" || filter.path?.type !== "prefix"
        ? match
        : ({ ...match, path: { type: "prefix", value: "/" } } as const),
    );
    return [{ ...common, matches: based, filters: [...before, ...(filter ? [filter] : []), ...after] }];
  });
}

function readHosts(spec: Fields): string[] {
  const hosts = spec.strings("hosts").filter(({ value, path }) => checkHost(spec, path, value));
  if (spec.children("http").length > 0 && (!spec.has("hosts") || spec.isEmptyList("hosts"))) {
    const message = "is missing: rules that other VirtualServices delegate to are not supported yet";
    spec.report.error(spec.at("hosts"), { message, hint: "name the services that the rules are for" });
  }
  return [...new Set(hosts.map(({ value }) => value.toLowerCase()))];
}

/** What is said of gateways, and of connections that are no requests, is named and not acted upon. */
function readGateways(spec: Fields): boolean {
  const gateways = spec.strings("gateways");
  for (const { value, path } of gateways) {
    if (value === "mesh") continue;
    const message = "gateways are not run yet: the rules are not read for it";
    spec.report.unsupported(path, { value, message });
  }
  const forMesh = gateways.length === 0 || gateways.some(({ value }) => value === "mesh");
  for (const key of ["tcp", "tls"]) {
    spec.accept(key);
    if (forMesh && spec.children(key).length > 0) {
      const message = "is not acted upon yet: connections that are no HTTP go to the service that they name";
      spec.report.unsupported(spec.at(key), { message });
    }
  }
  return forMesh;
}

export function decodeVirtualService(root: Fields, apiVersion: string): VirtualServiceObject {
  const { meta } = readMeta(root, apiVersion, { namespaced: true, name: "subdomain", unknown: "refuse" });
  const spec = root.childOrEmpty("spec");
  const hosts = readHosts(spec);
  const forMesh = readGateways(spec);
  const rules = spec.children("http").flatMap(readRule);
  if (!spec.has("http") && !spec.has("tcp") && !spec.has("tls")) {
    const message = "is missing: the VirtualService says nothing";
    spec.report.error(spec.at("http"), { message, hint: "write at least one rule" });
  }
  const exportTo = readExportTo(spec);
  spec.refuseUnknown();
  root.accept("status", "apiVersion", "kind", "metadata");
  root.refuseUnknown();
  return { kind: "VirtualService", meta, hosts, forMesh, exportTo, rules: forMesh ? rules : [] };
}
