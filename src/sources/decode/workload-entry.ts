import { isDnsSubdomain } from "../../domain/kube-names.js";
import { canonicalIp } from "../../domain/ip.js";
import type { WorkloadEntryObject, WorkloadEntrySpec } from "../../domain/objects.js";
import { childPath, portRange, type Fields } from "./fields.js";
import { readLabels, readMeta } from "./meta.js";

/** An IP address, a DNS name, or empty; a Unix socket cannot be reached by a mesh between nodes. */
function readAddress(fields: Fields): string {
  const written = fields.string("address") ?? "";
  if (written === "") return "";
  const ip = canonicalIp(written);
  if (ip !== undefined) return ip;
  const name = written.endsWith(".") ? written.slice(0, -1) : written;
  if (isDnsSubdomain(name.toLowerCase()) && !/^[\d.]+$/.test(name)) return name.toLowerCase();
  const hint = written.startsWith("unix:") ? "unix sockets are not supported" : "an IP address or a DNS name";
  fields.report.error(fields.at("address"), { value: written, message: "is not an address", hint });
  return "";
}

function readPorts(fields: Fields): ReadonlyMap<string, number> {
  const ports = new Map<string, number>();
  const child = fields.child("ports");
  if (!child) return ports;
  for (const name of Object.keys(child.values)) {
    const port = child.integer(name, portRange);
    if (port !== undefined) ports.set(name, port);
    else if (!child.has(name))
      child.report.error(childPath(child.path, name), { value: "null", message: "must be a port" });
  }
  return ports;
}

/** The fields of a WorkloadEntry, which are also those of a ServiceEntry's endpoint. A weight of 0 is Istio's "not set". */
export function readWorkloadEntrySpec(fields: Fields): WorkloadEntrySpec {
  const read: WorkloadEntrySpec = {
    address: readAddress(fields),
    ports: readPorts(fields),
    labels: readLabels(fields, "labels"),
    network: fields.string("network") ?? "",
    locality: fields.string("locality") ?? "",
    weight: fields.integer("weight", { min: 0, max: 4_294_967_295 }) || 1,
    serviceAccount: fields.string("serviceAccount") ?? "",
  };
  if (read.serviceAccount !== "" && !isDnsSubdomain(read.serviceAccount)) {
    fields.report.error(fields.at("serviceAccount"), {
      value: read.serviceAccount,
      message: "is not a service account's name",
    });
  }
  if (!fields.string("address") && !fields.string("network")) {
    fields.report.error(fields.at("address"), {
      message: "is missing",
      hint: "an IP address, or a network whose gateway reaches it",
    });
  }
  fields.refuseUnknown();
  return read;
}

export function decodeWorkloadEntry(root: Fields, apiVersion: string): WorkloadEntryObject {
  const { meta } = readMeta(root, apiVersion, { namespaced: true, name: "subdomain", unknown: "refuse" });
  const spec = readWorkloadEntrySpec(root.childOrEmpty("spec"));
  root.accept("status");
  root.refuseUnknown();
  return { kind: "WorkloadEntry", meta, spec };
}
