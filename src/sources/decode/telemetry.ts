/**
 * `telemetry.istio.io` Telemetry. What waypoints do not follow is named and left out: metrics, traces,
 * filters that look at something else than the status. The rest of the object is in force: none of it decides who
 * may do what.
 */
import { statusesOf, type AccessLogging, type TelemetryObject } from "../../domain/telemetry.js";
import type { Fields } from "./fields.js";
import { readMeta } from "./meta.js";
import { readSelector } from "./shared.js";
import { readTargetRefs } from "./target-refs.js";

const notFollowed = "is not followed by waypoints of this version";

/** Istio reads the first entry and ignores others, whose number it limits to one for logs and spans. */
function only(spec: Fields, key: string): Fields | undefined {
  const [first, ...more] = spec.children(key);
  for (const other of more) {
    spec.report.unsupported(other.path, { message: "is left out: one entry is read", hint: "join them" });
    other.accept(...Object.keys(other.values));
  }
  return first;
}

/** Names of providers; undefined where none is named. */
function providers(entry: Fields): readonly string[] | undefined {
  if (!entry.has("providers")) return undefined;
  return entry.children("providers").flatMap((provider) => {
    const name = provider.requiredString("name");
    provider.refuseUnknown();
    return name ?? [];
  });
}

/** Clients are not the waypoint's to observe: it is the server's side of what passes it. */
function isServers(entry: Fields): boolean {
  const match = entry.child("match");
  const mode = match?.choice("mode", ["CLIENT_AND_SERVER", "SERVER", "CLIENT"], "CLIENT_AND_SERVER");
  match?.refuseUnknown();
  if (mode !== "CLIENT") return true;
  entry.report.unsupported(entry.at("match"), {
    value: mode,
    message: notFollowed,
    hint: "SERVER, or no mode",
  });
  return false;
}

function readAccessLogging(spec: Fields): AccessLogging | undefined {
  const entry = only(spec, "accessLogging");
  if (!entry) return undefined;
  const disabled = entry.boolean("disabled") ?? false;
  // Access records go where the waypoint's flags say.
  const named = providers(entry)?.filter((name) => name !== "envoy") ?? [];
  if (named.length > 0) {
    entry.report.unsupported(entry.at("providers"), {
      value: named.join(", "),
      message: notFollowed,
      hint: "records go where the waypoint's --access-log-file says",
    });
  }
  const filter = entry.child("filter");
  const expression = filter?.string("expression");
  const statuses = expression === undefined ? undefined : statusesOf(expression);
  if (filter && expression !== undefined && !statuses) {
    filter.report.unsupported(filter.at("expression"), {
      value: expression,
      message: `${notFollowed}: every request has its record`,
      hint: "comparisons of response.code with numbers, joined by && and ||",
    });
  }
  filter?.refuseUnknown();
  const servers = isServers(entry);
  entry.refuseUnknown();
  return servers ? { disabled, statuses } : undefined;
}

export function decodeTelemetry(root: Fields, apiVersion: string): TelemetryObject {
  const { meta } = readMeta(root, apiVersion, { namespaced: true, name: "subdomain", unknown: "refuse" });
  const spec = root.childOrEmpty("spec");
  const selects = readSelector(spec) !== undefined;
  const targetRefs = readTargetRefs(spec);
  const [beyond] = targetRefs.filter(({ kind }) => kind !== "Gateway" && kind !== "GatewayClass");
  if (selects || beyond) {
    spec.report.unsupported(spec.at(selects ? "selector" : "targetRefs"), {
      message: notFollowed,
      hint: "target the waypoint's Gateway, or leave it out for its whole namespace",
    });
  }
  const accessLogging = readAccessLogging(spec);
  for (const key of ["metrics", "tracing"])
    if (spec.has(key)) spec.report.unsupported(spec.at(key), { message: notFollowed });
  spec.refuseUnknown();
  root.accept("status");
  root.refuseUnknown();
  return { kind: "Telemetry", meta, selects, targetRefs, accessLogging };
}
