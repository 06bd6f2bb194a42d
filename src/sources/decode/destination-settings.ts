/** Pools, load balancing and outlier detection of a DestinationRule's `trafficPolicy`. */
import type { Ejection, HashKey, TrafficSettings } from "../../domain/destination-rule.js";
import { readIstioDuration } from "./duration.js";
import type { Fields } from "./fields.js";
import { checkHeaderName } from "./route-match.js";

const count = { min: 0, max: 0x7fffffff } as const;

/** A limit; Istio's 0 is its default, which is none. */
const limit = (fields: Fields | undefined, key: string): number | undefined =>
  fields?.integer(key, count) || undefined;

function unread(fields: Fields | undefined, keys: readonly string[]): void {
  for (const key of keys) {
    if (fields?.has(key) !== true) continue;
    fields.report.unsupported(fields.at(key), { message: "is not acted upon yet" });
  }
}

type Pool = Pick<
  TrafficSettings,
  | "maxConnections"
  | "maxPendingRequests"
  | "maxRequests"
  | "maxRetries"
  | "maxRequestsPerConnection"
  | "connectTimeoutMs"
  | "idleTimeoutMs"
>;

/** `connectionPool`. */
export function readPool(policy: Fields): Pool {
  const pool = policy.child("connectionPool");
  const tcp = pool?.child("tcp");
  const http = pool?.child("http");
  pool?.refuseUnknown();
  const read: Pool = {
    maxConnections: limit(tcp, "maxConnections"),
    maxPendingRequests: limit(http, "http1MaxPendingRequests"),
    maxRequests: limit(http, "http2MaxRequests"),
    maxRetries: limit(http, "maxRetries"),
    maxRequestsPerConnection: limit(http, "maxRequestsPerConnection"),
    connectTimeoutMs: tcp && readIstioDuration(tcp, "connectTimeout"),
    idleTimeoutMs: http && readIstioDuration(http, "idleTimeout"),
  };
  unread(tcp, ["tcpKeepalive", "maxConnectionDuration", "idleTimeout"]);
  unread(http, ["h2UpgradePolicy", "useClientProtocol", "maxConcurrentStreams"]);
  tcp?.refuseUnknown();
  http?.refuseUnknown();
  return read;
}

const algorithms = {
  UNSPECIFIED: undefined,
  LEAST_CONN: "least_request",
  LEAST_REQUEST: "least_request",
  ROUND_ROBIN: "round_robin",
  RANDOM: "random",
} as const;

/** `loadBalancer`. */
export function readBalancing(policy: Fields): Pick<TrafficSettings, "balance" | "hash"> {
  const balancer = policy.child("loadBalancer");
  if (!balancer) return { balance: undefined, hash: undefined };
  const words = [...(Object.keys(algorithms) as (keyof typeof algorithms)[]), "PASSTHROUGH"] as const;
  const simple = balancer.choice("simple", words, "UNSPECIFIED");
  const consistent = balancer.child("consistentHash");
  if (consistent && balancer.has("simple"))
    balancer.report.error(balancer.at("simple"), { value: simple, message: "stands beside consistentHash" });
  unread(balancer, ["localityLbSetting", "warmup", "warmupDurationSecs"]);
  balancer.refuseUnknown();
  if (consistent) return { balance: "consistent_hash", hash: readHashKey(consistent) };
  if (simple !== "PASSTHROUGH") return { balance: algorithms[simple], hash: undefined };
  balancer.report.unsupported(balancer.at("simple"), {
    value: simple,
    message: "is not acted upon yet: the service's endpoints are balanced by least requests",
  });
  return { balance: undefined, hash: undefined };
}

function readHashKey(fields: Fields): HashKey | undefined {
  const keys = ["httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName"] as const;
  const given = keys.filter((key) => fields.has(key));
  const header = fields.string("httpHeaderName");
  const query = fields.string("httpQueryParameterName");
  const bySource = fields.boolean("useSourceIp");
  const cookie = fields.child("httpCookie");
  // How the ring is made is the proxy's own matter: which request goes where stays the same.
  fields.accept("ringHash", "maglev", "minimumRingSize");
  fields.refuseUnknown();
  if (given.length !== 1) {
    const message = given.length === 0 ? "names nothing to hash" : `has ${given.join(" and ")}`;
    fields.report.error(fields.path, { message, hint: `write one of: ${keys.join(", ")}` });
    return undefined;
  }
  if (header !== undefined)
    return checkHeaderName(fields, "httpHeaderName", header)
      ? { type: "header", name: header.toLowerCase() }
      : undefined;
  if (query !== undefined) return { type: "query", name: query };
  if (bySource === true) return { type: "source_ip" };
  if (bySource === false) {
    fields.report.error(fields.at("useSourceIp"), { message: "is false: nothing is left to hash" });
    return undefined;
  }
  if (!cookie) return undefined;
  const name = cookie.requiredString("name");
  const ttlMs = readIstioDuration(cookie, "ttl");
  const path = cookie.string("path") ?? "";
  unread(cookie, ["attributes"]);
  cookie.refuseUnknown();
  if (name === undefined) return undefined;
  return { type: "cookie", name, path, ttlS: ttlMs === undefined ? undefined : Math.ceil(ttlMs / 1000) };
}

/** `outlierDetection`, with Istio's defaults. */
export function readEjection(policy: Fields): Ejection | undefined {
  const outlier = policy.child("outlierDetection");
  if (!outlier) return undefined;
  const serverErrors = outlier.integer("consecutive5xxErrors", count);
  const gatewayErrors = outlier.integer("consecutiveGatewayErrors", count) ?? 0;
  const old = outlier.integer("consecutiveErrors", count);
  unread(outlier, ["splitExternalLocalOriginErrors", "consecutiveLocalOriginFailures"]);
  const read: Ejection = {
    consecutiveErrors: serverErrors ?? old ?? 5,
    consecutiveGatewayErrors: gatewayErrors,
    intervalMs: readIstioDuration(outlier, "interval") ?? 10_000,
    baseEjectionMs: readIstioDuration(outlier, "baseEjectionTime") ?? 30_000,
    maxPercent: outlier.integer("maxEjectionPercent", { min: 0, max: 100 }) ?? 10,
    minHealthPercent: outlier.integer("minHealthPercent", { min: 0, max: 100 }) ?? 0,
  };
  outlier.refuseUnknown();
  return read.consecutiveErrors === 0 && gatewayErrors === 0 ? undefined : read;
}
