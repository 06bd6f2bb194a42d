import type {
  JwtRule,
  KeySource,
  RequestAuthenticationObject,
  TokenPlace,
} from "../../domain/request-authentication.js";
import { readIstioDuration } from "./duration.js";
import type { Fields } from "./fields.js";
import { readMeta } from "./meta.js";
import type { Report } from "./report.js";
import { present, readSelector } from "./shared.js";
import { readTargetRefs } from "./target-refs.js";

/** Istio's own. */
const fetchTimeoutMs = 5_000;
const longestTimeoutMs = 60_000;
/** Each may need keys that are fetched. */
const mostRules = 16;
const headerName = /^[A-Za-z0-9!#$%&'*+.^_`|~-]+$/;
/** Framing and connections are no token's to say. */
const reserved = new Set(["host", "content-length", "transfer-encoding", "connection", "te", "upgrade"]);

/** A header's name, in lower case; reports what is none. */
export function readHeaderName(report: Report, path: string, text: string | undefined): string | undefined {
  if (text === undefined) return undefined;
  if (headerName.test(text)) return text.toLowerCase();
  report.error(path, { value: text, message: "is not a header's name" });
  return undefined;
}

function readOutputHeader(report: Report, path: string, text: string | undefined): string | undefined {
  const name = readHeaderName(report, path, text);
  if (name === undefined || !reserved.has(name)) return name;
  report.error(path, { value: text, message: "cannot be said by a token" });
  return undefined;
}

/** An http or https URL, as it was written. */
function isUrl(text: string): boolean {
  if (!URL.canParse(text)) return false;
  const { protocol, username, password, hash } = new URL(text);
  return /^https?:$/.test(protocol) && username === "" && password === "" && hash === "";
}

/** Whether the text is a key set: a JSON object with a list of keys. */
function isKeySet(text: string): boolean {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && "keys" in value && Array.isArray(value.keys);
  } catch {
    return false;
  }
}

function readKeys(rule: Fields, issuer: string | undefined): KeySource | undefined {
  const { report } = rule;
  const jwks = rule.string("jwks");
  const camel = rule.string("jwksUri");
  const snake = rule.string("jwks_uri");
  const url = camel ?? snake;
  if (jwks !== undefined && jwks !== "") {
    if (url !== undefined) {
      report.error(rule.at("jwksUri"), { value: url, message: "cannot stand beside jwks", hint: "keep one" });
    }
    if (isKeySet(jwks)) return { type: "inline", jwks };
    const hint = 'JSON such as {"keys": [{"kty": "RSA", ...}]}';
    report.error(rule.at("jwks"), { value: jwks, message: "is not a JSON Web Key Set", hint });
    return undefined;
  }
  if (url !== undefined && url !== "") {
    if (isUrl(url)) return { type: "uri", url };
    const hint = "an http or https address without user and fragment";
    // It may have a password in it.
    const value = url.includes("@") ? {} : { value: url };
    report.error(rule.at("jwksUri"), { ...value, message: "is not where keys can be fetched", hint });
    return undefined;
  }
  if (issuer === undefined) return undefined;
  if (isUrl(issuer)) return { type: "issuer", url: issuer };
  report.error(rule.at("jwksUri"), {
    message: "is missing, and keys cannot be discovered of an issuer that is no http or https address",
    hint: "write jwksUri, or the keys themselves as jwks",
  });
  return undefined;
}

function readTexts(rule: Fields, key: string): string[] {
  return rule.strings(key).flatMap(({ value, path }) => {
    if (value !== "") return [value];
    rule.report.error(path, { message: "is empty" });
    return [];
  });
}

function readPlaces(rule: Fields): TokenPlace[] {
  const headers = rule.children("fromHeaders").map((header): TokenPlace | undefined => {
    const name = readHeaderName(header.report, header.at("name"), header.requiredString("name"));
    const prefix = header.string("prefix") ?? "";
    header.refuseUnknown();
    return name === undefined ? undefined : { type: "header", name, prefix };
  });
  return [
    ...present(headers),
    ...readTexts(rule, "fromParams").map((name): TokenPlace => ({ type: "parameter", name })),
    ...readTexts(rule, "fromCookies").map((name): TokenPlace => ({ type: "cookie", name })),
  ];
}

function readOutputs(rule: Fields): JwtRule["outputClaimToHeaders"] {
  const outputs = rule.children("outputClaimToHeaders").map((output) => {
    const header = readOutputHeader(output.report, output.at("header"), output.requiredString("header"));
    const claim = output.requiredString("claim", "nested by dots, such as realm.name");
    output.refuseUnknown();
    return header === undefined || claim === undefined ? undefined : { header, claim };
  });
  return present(outputs);
}

function readJwtRule(rule: Fields): JwtRule | undefined {
  const issuer = rule.requiredString("issuer", "what tokens have as `iss`");
  const keys = readKeys(rule, issuer);
  const timeoutMs = readIstioDuration(rule, "timeout") ?? fetchTimeoutMs;
  if (timeoutMs < 1 || timeoutMs > longestTimeoutMs) {
    rule.report.error(rule.at("timeout"), { message: "must be above 0 and at most 60s" });
  }
  const read = {
    audiences: readTexts(rule, "audiences"),
    places: readPlaces(rule),
    outputPayloadToHeader: readOutputHeader(
      rule.report,
      rule.at("outputPayloadToHeader"),
      rule.string("outputPayloadToHeader") || undefined,
    ),
    forwardOriginalToken: rule.boolean("forwardOriginalToken") ?? false,
    outputClaimToHeaders: readOutputs(rule),
    timeoutMs,
  };
  rule.refuseUnknown();
  return issuer === undefined || !keys ? undefined : { issuer, keys, ...read };
}

export function decodeRequestAuthentication(root: Fields, apiVersion: string): RequestAuthenticationObject {
  const { meta } = readMeta(root, apiVersion, { namespaced: true, name: "subdomain", unknown: "refuse" });
  const spec = root.childOrEmpty("spec");
  const selector = readSelector(spec);
  const targetRefs = readTargetRefs(spec);
  if (selector && targetRefs.length > 0) {
    spec.report.error(spec.at("selector"), {
      message: "cannot stand beside targetRefs",
      hint: "write two objects",
    });
  }
  const written = spec.children("jwtRules");
  if (written.length > mostRules) {
    const message = `has ${written.length} rules; at most ${mostRules} are taken`;
    spec.report.error(spec.at("jwtRules"), { message, hint: "write several objects" });
  }
  const rules = present(written.slice(0, mostRules).map(readJwtRule));
  if (!spec.has("jwtRules") || spec.isEmptyList("jwtRules")) {
    spec.report.warning(spec.at("jwtRules"), {
      message: "is missing: no token is looked at",
      hint: "write at least one rule with an issuer",
    });
  }
  spec.refuseUnknown();
  root.accept("status");
  root.refuseUnknown();
  return { kind: "RequestAuthentication", meta, selector, targetRefs, rules };
}
