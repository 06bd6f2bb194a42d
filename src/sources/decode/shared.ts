import { canonicalIp, parseCidr, specialUse } from "../../domain/ip.js";
import type { AppProtocol, Cidr } from "../../domain/objects.js";
import type { Fields } from "./fields.js";
import { readLabels } from "./meta.js";
import type { Report } from "./report.js";

/** Where objects come from: a directory's pods have no kubelet that reports their state. */
export interface DecodeOptions {
  readonly origin: "files" | "cluster";
}

export const transportProtocols = ["TCP", "UDP", "SCTP"] as const;
export type TransportProtocol = (typeof transportProtocols)[number];

/** The address in its one spelling; reports what is none. */
export function readIp(report: Report, path: string, text: string): string | undefined {
  const ip = canonicalIp(text);
  if (ip === undefined) {
    report.error(path, { value: text, message: "is not an IP address", hint: "such as 10.0.0.7 or fd00::7" });
  }
  return ip;
}

/** An address that one host is known by; reports what is none. */
export function readHostIp(report: Report, path: string, text: string): string | undefined {
  const ip = readIp(report, path, text);
  const special = ip === undefined ? undefined : specialUse(ip);
  if (special === undefined) return ip;
  report.error(path, { value: text, message: `is a ${special} address, which is no host's own` });
  return undefined;
}

/** The network of `ADDRESS/LENGTH` or `ADDRESS`; reports what is none, and host bits that do not count. */
export function readCidr(report: Report, path: string, text: string): Cidr | undefined {
  const cidr = parseCidr(text);
  if (!cidr) {
    report.error(path, {
      value: text,
      message: "is neither an IP address nor a network",
      hint: "such as 10.0.0.7, 10.0.0.0/16 or fd00::/64",
    });
    return undefined;
  }
  const written = text.slice(0, Math.max(0, text.indexOf("/")));
  if (written !== "" && canonicalIp(written) !== cidr.address) {
    report.warning(path, {
      value: text,
      message: `is read as ${cidr.address}/${cidr.length}: bits behind the length do not count`,
    });
  }
  return cidr;
}

/** Drops what could not be read: its problem is reported already. */
export function present<T>(values: readonly (T | undefined)[]): T[] {
  return values.filter((value) => value !== undefined);
}

/** `selector.matchLabels`, as Istio's policies have it: a closed set of equal labels; undefined where absent or empty. */
export function readSelector(spec: Fields): ReadonlyMap<string, string> | undefined {
  const selector = spec.child("selector");
  if (!selector) return undefined;
  const labels = readLabels(selector, "matchLabels");
  if (selector.has("matchExpressions")) {
    const hint = "write the labels under matchLabels";
    selector.report.error(selector.at("matchExpressions"), {
      message: "is not understood by this kind",
      hint,
    });
  }
  selector.refuseUnknown();
  return labels.size === 0 ? undefined : labels;
}

/** The first word of a port's name is its protocol (Istio, "Protocol selection"). */
const named = new Map<string, AppProtocol>([
  ["http", "http"],
  ["http2", "http2"],
  ["h2c", "http2"],
  ["grpc", "grpc"],
  ["grpc-web", "http"],
  ["https", "tls"],
  ["tls", "tls"],
  ["tcp", "tcp"],
  ["mongo", "tcp"],
  ["mysql", "tcp"],
  ["redis", "tcp"],
  ["kubernetes.io/h2c", "http2"],
  ["kubernetes.io/ws", "http"],
  ["kubernetes.io/wss", "tls"],
]);

/** A port's application protocol: the declared one before that of its name (`http-web`); unknown where neither says. */
export function appProtocol(declared: string | undefined, name: string | undefined): AppProtocol {
  if (declared !== undefined) return named.get(declared.toLowerCase()) ?? "unknown";
  const lower = name?.toLowerCase() ?? "";
  if (lower === "grpc-web" || lower.startsWith("grpc-web-")) return "http";
  return named.get(lower.split("-", 1)[0] ?? "") ?? "unknown";
}
