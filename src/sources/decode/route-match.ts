import type { NamedMatcher, PathMatcher, RouteMatch, TextMatcher } from "../../domain/http-route.js";
import type { Fields } from "./fields.js";
import { present } from "./shared.js";

const methods = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"] as const;
const token = /^[A-Za-z0-9!#$%&'*+\-.^_`|~]+$/;
/** Gateway API's limits of one route. */
export const routeLimits = { rules: 16, matches: 64, named: 16, filters: 16, backends: 16 } as const;

/** Whether the text is a header's name (RFC 9110 token, at most 256 characters); reports where not. */
export function checkHeaderName(fields: Fields, key: string, name: string): boolean {
  if (token.test(name) && name.length <= 256) return true;
  fields.report.error(fields.at(key), { value: name, message: "is not a header's name" });
  return false;
}

/** A path: begins with `/`, has no query and no dot or empty segment that normalising would remove. */
export function checkPath(fields: Fields, key: string, value: string): void {
  const wrong = !value.startsWith("/")
    ? "must begin with /"
    : /\/\/|\/\.\.?(\/|$)|%2[fF]|#/.test(value)
      ? "contains what no normalised path has (//, /., /.., %2F or #)"
      : undefined;
  if (wrong !== undefined) fields.report.error(fields.at(key), { value, message: wrong });
}

function readPath(match: Fields): PathMatcher | undefined {
  const path = match.child("path");
  if (!path) return { type: "segments", value: "/" };
  const type = path.choice("type", ["Exact", "PathPrefix", "RegularExpression"], "PathPrefix");
  const value = path.string("value") ?? "/";
  path.refuseUnknown();
  switch (type) {
    case "Exact":
      checkPath(path, "value", value);
      return { type: "exact", value };
    case "PathPrefix":
      checkPath(path, "value", value);
      return { type: "segments", value: value.length > 1 ? value.replace(/\/$/, "") : value };
    case "RegularExpression":
      return readRegex(path, "value", value);
  }
}

/** Checks what can be checked without the engine that runs it: linear time, so neither look-around nor back-references. */
export function readRegex(
  fields: Fields,
  key: string,
  value: string,
): { readonly type: "regex"; readonly value: string } | undefined {
  const unsupported = /\(\?(=|!|<=|<!)|\\[1-9]/.exec(value)?.[0];
  if (unsupported !== undefined) {
    fields.report.error(fields.at(key), {
      value,
      message: `uses ${unsupported}, which needs an engine without a bound on its time`,
      hint: "write it in RE2 syntax",
    });
    return undefined;
  }
  try {
    new RegExp(value.replaceAll("(?P<", "(?<").replace(/^\(\?[imsU]+\)/, ""), "u");
  } catch {
    fields.report.error(fields.at(key), { value, message: "is not a regular expression (RE2 syntax)" });
    return undefined;
  }
  return { type: "regex", value };
}

export function readNamed(
  match: Fields,
  key: "headers" | "queryParams",
  what: "header" | "query parameter",
): NamedMatcher[] {
  const entries = match.children(key);
  if (entries.length > routeLimits.named)
    match.report.error(match.at(key), { message: `has more than ${routeLimits.named} entries` });
  const seen = new Set<string>();
  return present(
    entries.map((entry) => {
      const written = entry.requiredString("name") ?? "";
      const type = entry.choice("type", ["Exact", "RegularExpression"], "Exact");
      const text = entry.requiredString("value") ?? "";
      entry.refuseUnknown();
      const name = what === "header" ? written.toLowerCase() : written;
      if (name === "" || (what === "header" && !checkHeaderName(entry, "name", written))) return undefined;
      if (seen.has(name)) {
        entry.report.warning(entry.at("name"), {
          value: written,
          message: `is a ${what} that an earlier entry names: this one is ignored`,
        });
        return undefined;
      }
      seen.add(name);
      const value: TextMatcher | undefined =
        type === "Exact" ? { type: "exact", value: text } : readRegex(entry, "value", text);
      return value && { name, value };
    }),
  );
}

function readMatch(match: Fields): RouteMatch {
  const method = match.string("method");
  if (method !== undefined && !(methods as readonly string[]).includes(method)) {
    match.report.error(match.at("method"), {
      value: method,
      message: "is not a method",
      hint: `one of: ${methods.join(", ")}`,
    });
  }
  const read = {
    path: readPath(match),
    method: method === undefined ? undefined : ({ type: "exact", value: method } as const),
    headers: readNamed(match, "headers", "header"),
    query: readNamed(match, "queryParams", "query parameter"),
  };
  match.refuseUnknown();
  return read;
}

/** `matches` of a rule; one that matches everything where there are none. */
export function readMatches(rule: Fields): RouteMatch[] {
  const matches = rule.children("matches");
  if (matches.length > routeLimits.matches)
    rule.report.error(rule.at("matches"), { message: `has more than ${routeLimits.matches} entries` });
  if (matches.length > 0) return matches.map(readMatch);
  return [{ path: { type: "segments", value: "/" }, method: undefined, headers: [], query: [] }];
}
