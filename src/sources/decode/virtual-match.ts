/** What a VirtualService's rule looks at. */
import type { NamedMatcher, PathMatcher, RouteMatch, TextMatcher } from "../../domain/http-route.js";
import { type Fields, portRange } from "./fields.js";
import { checkHeaderName, readRegex } from "./route-match.js";
import { present } from "./shared.js";

/** `{ exact | prefix | regex }`; `empty` is what a mapping without any of them is read as. */
export function readText(fields: Fields, empty?: TextMatcher): TextMatcher | undefined {
  const given = (["exact", "prefix", "regex"] as const).filter((type) => fields.has(type));
  fields.refuseUnknown();
  const [type] = given;
  if (given.length > 1) {
    fields.report.error(fields.path, { message: `has ${given.join(" and ")}`, hint: "keep one of them" });
    return undefined;
  }
  if (type === undefined) {
    if (empty) return empty;
    fields.report.error(fields.path, { message: "is empty", hint: "write exact, prefix or regex" });
    return undefined;
  }
  const value = fields.string(type);
  if (value === undefined) return undefined;
  return type === "regex" ? readRegex(fields, type, value) : { type, value };
}

function readTextAt(parent: Fields, key: string, empty?: TextMatcher): TextMatcher | undefined {
  const fields = parent.child(key);
  return fields && readText(fields, empty);
}

function readUri(match: Fields): PathMatcher | undefined {
  const uri = readTextAt(match, "uri");
  const ignoreCase = match.boolean("ignoreUriCase") === true;
  if (!uri || uri.type === "present") return undefined;
  if (uri.type === "exact" && !uri.value.startsWith("/")) {
    const message = "does not begin with /, as every path does: it matches nothing";
    match.report.error(`${match.at("uri")}.exact`, { value: uri.value, message });
  }
  return uri.type === "regex"
    ? { type: "regex", value: uri.value }
    : { type: uri.type, value: uri.value, ...(ignoreCase && { ignoreCase }) };
}

/** In lower case and without port, as the mesh compares it. */
function readAuthority(match: Fields): TextMatcher | undefined {
  const authority = readTextAt(match, "authority");
  if (!authority || authority.type === "present" || authority.type === "regex") return authority;
  const lower = authority.value.toLowerCase();
  const value = authority.type === "exact" ? lower.replace(/:\d+$/, "") : lower;
  return { type: authority.type, value };
}

/** A mapping of names to string matches; an empty one asks whether it is there at all. */
function readNamedMatches(match: Fields, key: "headers" | "withoutHeaders" | "queryParams"): NamedMatcher[] {
  const entries = match.child(key);
  if (!entries) return [];
  const headers = key !== "queryParams";
  return present(
    Object.keys(entries.values).map((written) => {
      const value = readTextAt(entries, written, { type: "present" });
      if (headers && written.startsWith(":") && written !== ":authority") {
        const hint = "write uri, method or scheme of the match";
        entries.report.error(entries.at(written), { value: written, message: "is not a header", hint });
        return undefined;
      }
      if (headers && written !== ":authority" && !checkHeaderName(entries, written, written))
        return undefined;
      const name = headers ? written.toLowerCase() : written;
      return value && { name, value, ...(key === "withoutHeaders" && { not: true as const }) };
    }),
  );
}

/** One match; undefined where it is for gateways only. */
export function readVirtualMatch(match: Fields): RouteMatch | undefined {
  const gateways = match.strings("gateways").map(({ value }) => value);
  const path = readUri(match);
  const authority = readAuthority(match);
  const scheme = readTextAt(match, "scheme");
  const port = match.integer("port", portRange);
  const sourceNamespace = match.string("sourceNamespace") || undefined;
  if (match.stringMap("sourceLabels").size > 0) {
    // Left out, the match would hold for callers that it does not mean.
    match.report.error(match.at("sourceLabels"), {
      message: "is not supported yet: a waypoint knows its callers' namespace and service account",
      hint: "write sourceNamespace",
    });
  }
  match.accept("name", "statPrefix");
  const read: RouteMatch = {
    path,
    method: readTextAt(match, "method"),
    headers: [...readNamedMatches(match, "headers"), ...readNamedMatches(match, "withoutHeaders")],
    query: readNamedMatches(match, "queryParams"),
    ...(authority && { authority }),
    ...(scheme && { scheme }),
    ...(port !== undefined && { port }),
    ...(sourceNamespace !== undefined && { sourceNamespace }),
  };
  match.refuseUnknown();
  return gateways.length > 0 && !gateways.includes("mesh") ? undefined : read;
}
