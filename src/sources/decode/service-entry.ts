import { isDnsSubdomain } from "../../domain/kube-names.js";
import type { ServiceEntryObject, ServiceEntryPort, WorkloadEntrySpec } from "../../domain/objects.js";
import { portRange, type Fields } from "./fields.js";
import { readLabels, readMeta } from "./meta.js";
import { appProtocol, present, readCidr } from "./shared.js";
import { readWorkloadEntrySpec } from "./workload-entry.js";

const resolutions = ["NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"] as const;
const locations = ["MESH_EXTERNAL", "MESH_INTERNAL"] as const;
/** Values of `ports[].protocol`; others are read as TCP bytes, with a warning. */
const protocols = [
  "HTTP",
  "HTTPS",
  "HTTP2",
  "GRPC",
  "GRPC-WEB",
  "MONGO",
  "MYSQL",
  "REDIS",
  "TCP",
  "TLS",
  "UDP",
] as const;

function readPort(port: Fields): ServiceEntryPort | undefined {
  const name = port.requiredString("name");
  const number = port.integer("number", portRange);
  if (number === undefined && !port.has("number"))
    port.report.error(port.at("number"), { message: "is missing" });
  const targetPort =
    port.has("targetPort") && port.raw("targetPort") !== 0 ? port.integer("targetPort", portRange) : number;
  const written = port.string("protocol") || "TCP";
  const protocol = protocols.find((candidate) => candidate === written.toUpperCase());
  if (protocol === undefined) {
    const hint = `one of: ${protocols.join(", ")}`;
    port.report.error(port.at("protocol"), { value: written, message: "is not a protocol", hint });
  }
  port.refuseUnknown();
  if (name === undefined || number === undefined || targetPort === undefined) return undefined;
  return {
    name,
    number,
    targetPort,
    protocol: protocol === "UDP" ? "UDP" : "TCP",
    appProtocol: protocol === "UDP" ? "unknown" : appProtocol(written, name),
  };
}

function readPorts(spec: Fields): ServiceEntryPort[] {
  const ports = spec.children("ports").map((fields) => ({ fields, port: readPort(fields) }));
  const names = new Set<string>();
  const numbers = new Set<string>();
  for (const { fields, port } of ports) {
    if (!port) continue;
    const number = `${port.protocol}/${port.number}`;
    if (numbers.has(number))
      fields.report.error(fields.at("number"), { value: port.number, message: "is listed twice" });
    if (names.has(port.name))
      fields.report.error(fields.at("name"), { value: port.name, message: "is another port's name" });
    numbers.add(number);
    names.add(port.name);
  }
  return present(ports.map(({ port }) => port));
}

/** DNS names, a leading `*.` allowed; an address is not a host. */
function readHosts(spec: Fields): string[] {
  const hosts = spec.strings("hosts").map(({ value, path }) => {
    const bare = value.startsWith("*.") ? value.slice(2) : value;
    const valid = isDnsSubdomain(bare.toLowerCase()) && !/^[\d.]+$/.test(bare);
    if (valid) return value.toLowerCase();
    const hint =
      value === "*" ? "write a domain, such as *.example.com" : "a DNS name; addresses go into `addresses`";
    spec.report.error(path, { value, message: "is not a host", hint });
    return undefined;
  });
  if (!spec.has("hosts") || spec.isEmptyList("hosts"))
    spec.report.error(spec.at("hosts"), { message: "is missing", hint: "list at least one host" });
  return present(hosts);
}

/** Addresses as written, networks as `ADDRESS/LENGTH`, single addresses without the length. */
function readAddresses(spec: Fields): string[] {
  const addresses = spec.strings("addresses").map(({ value, path }) => {
    const cidr = readCidr(spec.report, path, value);
    if (!cidr) return undefined;
    return cidr.length === (cidr.address.includes(":") ? 128 : 32)
      ? cidr.address
      : `${cidr.address}/${cidr.length}`;
  });
  return present(addresses);
}

function isAddress(text: string): boolean {
  return text.includes(":") || /^[\d.]+$/.test(text);
}

function checkResolution(
  spec: Fields,
  entry: Pick<ServiceEntryObject, "resolution" | "endpoints" | "hosts">,
): void {
  const { report } = spec;
  if (entry.resolution === "NONE" && entry.endpoints.length > 0) {
    const hint = "write resolution: STATIC for addresses, DNS for names";
    report.error(spec.at("endpoints"), { message: "have no meaning with resolution NONE", hint });
  }
  if (entry.resolution === "STATIC") {
    entry.endpoints.forEach((endpoint, index) => {
      if (endpoint.address === "" || isAddress(endpoint.address)) return;
      const path = `${spec.at("endpoints")}[${index}].address`;
      report.error(path, {
        value: endpoint.address,
        message: "must be an IP address with resolution STATIC",
        hint: "or write resolution: DNS",
      });
    });
  }
  const wildcard = entry.hosts.findIndex((host) => host.startsWith("*"));
  const byName = entry.resolution === "DNS" || entry.resolution === "DNS_ROUND_ROBIN";
  if (wildcard >= 0 && byName && entry.endpoints.length === 0) {
    report.error(`${spec.at("hosts")}[${wildcard}]`, {
      value: entry.hosts[wildcard],
      message: `cannot be resolved with resolution ${entry.resolution}`,
      hint: "list endpoints, or write resolution: NONE or DYNAMIC_DNS",
    });
  }
  if (entry.resolution !== "NONE" && entry.resolution !== "STATIC") {
    report.unsupported(spec.at("resolution"), {
      value: entry.resolution,
      message: "names are not resolved yet: only endpoints with an address are used",
      hint: "write resolution: STATIC with addresses",
    });
  }
}

function readWorkloadSelector(spec: Fields): ReadonlyMap<string, string> | undefined {
  const selector = spec.child("workloadSelector");
  const labels = selector && readLabels(selector, "labels");
  selector?.refuseUnknown();
  return labels && labels.size > 0 ? labels : undefined;
}

export function decodeServiceEntry(root: Fields, apiVersion: string): ServiceEntryObject {
  const { meta } = readMeta(root, apiVersion, { namespaced: true, name: "subdomain", unknown: "refuse" });
  const spec = root.childOrEmpty("spec");
  const endpoints: WorkloadEntrySpec[] = spec.children("endpoints").map(readWorkloadEntrySpec);
  const entry: ServiceEntryObject = {
    kind: "ServiceEntry",
    meta,
    hosts: readHosts(spec),
    addresses: readAddresses(spec),
    ports: readPorts(spec),
    location: spec.choice("location", locations, "MESH_EXTERNAL"),
    resolution: spec.choice("resolution", resolutions, "NONE"),
    endpoints,
    workloadSelector: readWorkloadSelector(spec),
    subjectAltNames: spec.strings("subjectAltNames").map(({ value }) => value),
  };
  if (entry.workloadSelector && endpoints.length > 0) {
    spec.report.error(spec.at("workloadSelector"), {
      message: "cannot stand beside endpoints",
      hint: "write two ServiceEntries",
    });
  }
  const visible = spec.strings("exportTo");
  if (visible.some(({ value }) => value !== "*")) {
    spec.report.unsupported(spec.at("exportTo"), {
      message: "is not acted upon yet: the entry is visible in every namespace",
    });
  }
  checkResolution(spec, entry);
  spec.refuseUnknown();
  root.accept("status");
  root.refuseUnknown();
  return entry;
}
