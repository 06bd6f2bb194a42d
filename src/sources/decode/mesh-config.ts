import type { CheckBody, ConfigMapObject, ExtensionProvider } from "../../domain/mesh-config.js";
import { parseStringMatch } from "../../domain/string-match.js";
import { parseChunk } from "./documents.js";
import { readIstioDuration } from "./duration.js";
import { Fields, isMapping, portRange } from "./fields.js";
import { readMeta } from "./meta.js";
import { readHeaderName } from "./request-authentication.js";
import { present } from "./shared.js";

/** The key of the ConfigMap under which the settings stand. */
const key = "mesh";
/** Istio's own: an authorizer that does not answer is waited for as long as the request is. */
const authorizerTimeoutMs = 600_000;
const largestBody = 1 << 20;
/** What a provider may be; those beyond the first two are for telemetry. */
const purposes = [
  "envoyExtAuthzHttp",
  "envoyExtAuthzGrpc",
  "zipkin",
  "lightstep",
  "datadog",
  "stackdriver",
  "opencensus",
  "skywalking",
  "opentelemetry",
  "prometheus",
  "envoyFileAccessLog",
  "envoyHttpAls",
  "envoyTcpAls",
  "envoyOtelAls",
  "sds",
] as const;

/** The settings as a mapping, its problems placed below `data.mesh`. */
function readSettings(root: Fields): Fields | undefined {
  const data = root.child("data");
  const text = data?.string(key);
  if (!data || text === undefined) {
    root.report.warning(root.at("data"), {
      message: `has no ${key}: the mesh's settings are all defaults`,
    });
    return undefined;
  }
  const [document] = parseChunk(text);
  const empty = new Fields(root.report, data.at(key), {});
  if (!document) return empty;
  if (!document.ok) {
    root.report.error(data.at(key), { message: document.message, hint: "correct the syntax" });
    return undefined;
  }
  if (document.value === null || document.value === undefined) return empty;
  if (isMapping(document.value)) return new Fields(root.report, data.at(key), document.value);
  root.report.error(data.at(key), { message: "must be a mapping" });
  return undefined;
}

function readHeaderPatterns(fields: Fields, name: string): string[] {
  return fields.strings(name).flatMap(({ value, path }) => {
    const match = parseStringMatch(value);
    if (match && match.type !== "presence") return [value.toLowerCase()];
    const hint = '"abc", "abc*" or "*abc"';
    fields.report.error(path, { value, message: "is not a header's name or a pattern of one", hint });
    return [];
  });
}

function readBody(fields: Fields): CheckBody | undefined {
  const body = fields.child("includeRequestBodyInCheck");
  if (!body) return undefined;
  const maxBytes = body.integer("maxRequestBytes", { min: 1, max: largestBody });
  if (maxBytes === undefined && !body.has("maxRequestBytes"))
    body.report.error(body.at("maxRequestBytes"), { message: "is missing" });
  const read = {
    maxBytes: maxBytes ?? 1,
    allowPartial: body.boolean("allowPartialMessage") ?? false,
    asBytes: body.boolean("packAsBytes") ?? false,
  };
  body.refuseUnknown();
  return read;
}

function readStatus(fields: Fields): number {
  const text = fields.string("statusOnError");
  if (text === undefined || text === "") return 403;
  if (/^[45]\d\d$/.test(text)) return Number(text);
  fields.report.error(fields.at("statusOnError"), {
    value: text,
    message: "is not a status that refuses",
    hint: 'from "400" to "599", in quotes',
  });
  return 403;
}

function readAuthorizer(fields: Fields, name: string) {
  const service = fields.requiredString(
    "service",
    "such as authz.shop.svc.cluster.local or shop/authz.example",
  );
  const port = fields.integer("port", portRange);
  if (port === undefined && !fields.has("port"))
    fields.report.error(fields.at("port"), { message: "is missing" });
  const timeoutMs = readIstioDuration(fields, "timeout") ?? authorizerTimeoutMs;
  // Routes are chosen after the answer in any case.
  fields.accept("clearRouteCache");
  return {
    name,
    service: service ?? "",
    port: port ?? 0,
    timeoutMs: Math.min(Math.max(timeoutMs, 1), authorizerTimeoutMs),
    failOpen: fields.boolean("failOpen") ?? false,
    statusOnError: readStatus(fields),
    body: readBody(fields),
  };
}

function readFurtherHeaders(fields: Fields): { name: string; value: string }[] {
  const path = fields.at("includeAdditionalHeadersInCheck");
  const headers = [...fields.stringMap("includeAdditionalHeadersInCheck")].map(([header, value]) => {
    const name = readHeaderName(fields.report, `${path}[${JSON.stringify(header)}]`, header);
    return name === undefined ? undefined : { name, value };
  });
  return present(headers);
}

function readHttp(fields: Fields, name: string): ExtensionProvider {
  const common = readAuthorizer(fields, name);
  const pathPrefix = fields.string("pathPrefix") ?? "";
  if (pathPrefix !== "" && !/^\/[^\s?#]*$/.test(pathPrefix)) {
    fields.report.error(fields.at("pathPrefix"), { value: pathPrefix, message: "is not a path" });
  }
  const read: ExtensionProvider = {
    type: "ext_authz_http",
    ...common,
    pathPrefix,
    requestHeaders: [
      ...readHeaderPatterns(fields, "includeRequestHeadersInCheck"),
      // The older name of the same.
      ...readHeaderPatterns(fields, "includeHeadersInCheck"),
    ],
    furtherHeaders: readFurtherHeaders(fields),
    headersToUpstreamOnAllow: readHeaderPatterns(fields, "headersToUpstreamOnAllow"),
    headersToDownstreamOnDeny: readHeaderPatterns(fields, "headersToDownstreamOnDeny"),
    headersToDownstreamOnAllow: readHeaderPatterns(fields, "headersToDownstreamOnAllow"),
  };
  fields.refuseUnknown();
  return read;
}

function readGrpc(fields: Fields, name: string): ExtensionProvider {
  const read: ExtensionProvider = { type: "ext_authz_grpc", ...readAuthorizer(fields, name) };
  fields.refuseUnknown();
  return read;
}

function readProvider(provider: Fields, names: Set<string>): ExtensionProvider | undefined {
  const name = provider.requiredString("name");
  if (name !== undefined && names.has(name)) {
    provider.report.error(provider.at("name"), { value: name, message: "is another provider's name, too" });
  }
  names.add(name ?? "");
  const given = purposes.filter((purpose) => provider.has(purpose));
  provider.refuseUnknown();
  const [purpose] = given;
  if (purpose === undefined || given.length > 1) {
    provider.report.error(provider.path, {
      message: purpose === undefined ? "says nothing of what it is" : `is ${given.join(" and ")} at once`,
      hint: `one of: ${purposes.join(", ")}`,
    });
    return undefined;
  }
  const fields = provider.childOrEmpty(purpose);
  if (name === undefined) return undefined;
  switch (purpose) {
    case "envoyExtAuthzHttp":
      return readHttp(fields, name);
    case "envoyExtAuthzGrpc":
      return readGrpc(fields, name);
    default:
      return { type: "other", name, field: purpose };
  }
}

/** A ConfigMap with the mesh's settings. Istio has many more of them: what is not read here is not looked at. */
export function decodeMeshConfig(root: Fields, apiVersion: string): ConfigMapObject {
  const { meta } = readMeta(root, apiVersion, { namespaced: true, name: "subdomain", unknown: "warn" });
  const settings = readSettings(root);
  const names = new Set<string>();
  const written = settings?.children("extensionProviders") ?? [];
  const providers = present(written.map((provider) => readProvider(provider, names)));
  return { kind: "ConfigMap", meta, extensionProviders: providers };
}
