/** What a VirtualService's rule does to requests, or answers in their place. */
import type { HeaderChange, PathChange, TextMatcher } from "../../domain/http-route.js";
import type { Destination, VirtualFilter } from "../../domain/virtual-service.js";
import { readIstioDuration } from "./duration.js";
import { type Fields, portRange } from "./fields.js";
import { checkHost, readPercentage, readPortSelector } from "./istio-host.js";
import { checkChangeable } from "./route-filter.js";
import { checkHeaderName, readRegex } from "./route-match.js";
import { present } from "./shared.js";
import { readText } from "./virtual-match.js";

/** The mapping of a `destination`. */
export function readDestination(fields: Fields): Destination | undefined {
  const host = fields.requiredString("host");
  const subset = fields.string("subset") || undefined;
  const port = readPortSelector(fields);
  fields.refuseUnknown();
  if (host === undefined || !checkHost(fields, fields.at("host"), host)) return undefined;
  if (host.startsWith("*")) {
    fields.report.error(fields.at("host"), { value: host, message: "is a wildcard: name one service" });
    return undefined;
  }
  return { host: host.toLowerCase(), subset, port };
}

function readHeaderOperations(fields: Fields): HeaderChange {
  const pairs = (key: "set" | "add"): { name: string; value: string }[] =>
    [...fields.stringMap(key)].flatMap(([name, value]) => {
      const at = fields.child(key) ?? fields;
      if (/[\r\n\0]/.test(value)) at.report.error(at.at(name), { value, message: "contains a line break" });
      if (name !== ":authority" && !checkHeaderName(at, name, name)) return [];
      checkChangeable(at, name, name);
      // The authority is a header to Istio's users.
      return [{ name: name === ":authority" ? "host" : name, value }];
    });
  const remove = fields.strings("remove").map(({ value }) => value);
  for (const name of remove) checkChangeable(fields, "remove", name);
  const change = { set: pairs("set"), add: pairs("add"), remove };
  fields.refuseUnknown();
  return change;
}

/** `headers` of a rule or of a destination. */
export function readHeaders(parent: Fields): VirtualFilter[] {
  const headers = parent.child("headers");
  const request = headers?.child("request");
  const response = headers?.child("response");
  headers?.refuseUnknown();
  return [
    ...(request ? [{ type: "request_headers", change: readHeaderOperations(request) } as const] : []),
    ...(response ? [{ type: "response_headers", change: readHeaderOperations(response) } as const] : []),
  ];
}

/** `rewrite`: the authority and the path. `whole`: the rule's matches have no prefix, so that all of it is replaced. */
export function readRewrite(rewrite: Fields, whole: boolean): VirtualFilter | undefined {
  const authority = rewrite.string("authority") || undefined;
  const uri = rewrite.string("uri");
  const regex = rewrite.child("uriRegexRewrite");
  let path: PathChange | undefined;
  if (regex) {
    if (uri !== undefined)
      rewrite.report.error(rewrite.at("uri"), { value: uri, message: "stands beside uriRegexRewrite" });
    const pattern = regex.requiredString("match");
    const substitution = regex.string("rewrite") ?? "";
    regex.refuseUnknown();
    if (pattern !== undefined && readRegex(regex, "match", pattern))
      path = { type: "regex", pattern, substitution };
  } else if (uri !== undefined) {
    path = whole ? { type: "full", value: uri } : { type: "prefix", value: uri };
    if (whole && !uri.startsWith("/")) {
      const message = "must begin with /: it replaces the whole path";
      rewrite.report.error(rewrite.at("uri"), { value: uri, message });
    }
  }
  rewrite.refuseUnknown();
  if (authority === undefined && path === undefined) return undefined;
  return { type: "rewrite", hostname: authority, path };
}

const redirectCodes = [301, 302, 303, 307, 308];

export function readVirtualRedirect(redirect: Fields): VirtualFilter {
  const uri = redirect.string("uri");
  const authority = redirect.string("authority") || undefined;
  const scheme = redirect.string("scheme");
  const port = redirect.integer("port", portRange);
  const derive = redirect.choice(
    "derivePort",
    ["FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"],
    "FROM_REQUEST_PORT",
  );
  const status = redirect.integer("redirectCode", { min: 0, max: 999 }) ?? 301;
  redirect.refuseUnknown();
  if (uri !== undefined && (!uri.startsWith("/") || uri.includes("?"))) {
    const message = uri.startsWith("/") ? "has a query, which is not supported yet" : "must begin with /";
    redirect.report.error(redirect.at("uri"), { value: uri, message });
  }
  if (scheme !== undefined && scheme !== "http" && scheme !== "https")
    redirect.report.error(redirect.at("scheme"), { value: scheme, message: "must be http or https" });
  if (!redirectCodes.includes(status)) {
    const hint = `one of: ${redirectCodes.join(", ")}`;
    const message = "is not a redirect's status";
    redirect.report.error(redirect.at("redirectCode"), { value: status, message, hint });
  }
  const [, hostname = authority, ofAuthority] = /^(.*):(\d+)$/.exec(authority ?? "") ?? [];
  const given = port ?? (ofAuthority === undefined ? undefined : Number(ofAuthority));
  // An authority without port is written as it is; without one, the request's own stays.
  const keeps =
    given === undefined &&
    derive === "FROM_REQUEST_PORT" &&
    (authority === undefined || redirect.has("derivePort"));
  return {
    type: "redirect",
    scheme,
    hostname,
    port: given,
    path: uri === undefined ? undefined : { type: "full", value: uri },
    status,
    ...(keeps && { keepPort: true as const }),
  };
}

export function readDirectResponse(response: Fields): VirtualFilter {
  const status = response.integer("status", { min: 200, max: 599 });
  if (status === undefined && !response.has("status"))
    response.report.error(response.at("status"), { message: "is missing", hint: "from 200 to 599" });
  const body = response.child("body");
  const text = body?.string("string");
  const bytes = body?.string("bytes");
  body?.refuseUnknown();
  response.refuseUnknown();
  const size = Buffer.byteLength(text ?? bytes ?? "", text === undefined ? "base64" : "utf8");
  if (size > 65_536) response.report.error(response.at("body"), { message: "is more than 64 KiB" });
  if (bytes !== undefined && !/^[A-Za-z0-9+/]*={0,2}$/.test(bytes))
    response.report.error(`${response.at("body")}.bytes`, { value: bytes, message: "is not base64" });
  return {
    type: "direct_response",
    status: status ?? 0,
    body: text ?? bytes ?? "",
    ...(text === undefined && bytes !== undefined && { binary: true as const }),
  };
}

/** `mirror` with its percentage (all where it says none), and `mirrors`. */
export function readMirrors(rule: Fields): VirtualFilter[] {
  const one = rule.child("mirror");
  const share = readPercentage(rule, "mirrorPercentage", ["mirrorPercent", "mirror_percent"]);
  const single = one && readDestination(one);
  const all = 1_000_000;
  const several = rule.children("mirrors").map((mirror): VirtualFilter | undefined => {
    const backend = readDestination(mirror.childOrEmpty("destination"));
    const perMillion = readPercentage(mirror, "percentage") ?? all;
    mirror.refuseUnknown();
    return backend && { type: "mirror", backend, perMillion };
  });
  if (one && several.length > 0)
    rule.report.error(rule.at("mirrors"), { message: "stands beside mirror", hint: "keep one of them" });
  return present([
    single && ({ type: "mirror", backend: single, perMillion: share ?? all } as const),
    ...several,
  ]);
}

export function readCorsPolicy(cors: Fields): VirtualFilter {
  const texts = (key: string): string[] => cors.strings(key).map(({ value }) => value);
  const patterns = cors.children("allowOrigins").map((entry) => readText(entry));
  const plain = texts("allowOrigin").map((value): TextMatcher => {
    return value === "*" ? { type: "regex", value: ".*" } : { type: "exact", value };
  });
  const unmatched = cors.choice("unmatchedPreflights", ["UNSPECIFIED", "FORWARD", "IGNORE"], "UNSPECIFIED");
  const maxAgeMs = readIstioDuration(cors, "maxAge");
  const read: VirtualFilter = {
    type: "cors",
    allowOrigins: [...present(patterns), ...plain],
    allowMethods: texts("allowMethods"),
    allowHeaders: texts("allowHeaders"),
    exposeHeaders: texts("exposeHeaders"),
    maxAgeS: maxAgeMs === undefined ? 0 : Math.floor(maxAgeMs / 1000),
    allowCredentials: cors.boolean("allowCredentials") ?? false,
    ...(unmatched !== "IGNORE" && { forwardUnmatched: true as const }),
  };
  cors.refuseUnknown();
  return read;
}
