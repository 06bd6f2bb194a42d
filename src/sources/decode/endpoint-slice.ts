import type { EndpointSliceObject, SliceEndpoint } from "../../domain/objects.js";
import { portRange, type Fields } from "./fields.js";
import { metadataPath, readMeta } from "./meta.js";
import { present, readHostIp, transportProtocols } from "./shared.js";

const serviceNameLabel = "kubernetes.io/service-name";
type AddressType = EndpointSliceObject["addressType"];

function readAddresses(endpoint: Fields, type: AddressType): readonly string[] {
  const written = endpoint.strings("addresses");
  if (written.length === 0)
    endpoint.report.error(endpoint.at("addresses"), {
      message: "is missing",
      hint: "list at least one address",
    });
  if (type === "FQDN") return written.map(({ value }) => value);
  const ips = written.map(({ value, path }) => {
    const ip = readHostIp(endpoint.report, path, value);
    if (ip !== undefined && ip.includes(":") !== (type === "IPv6")) {
      endpoint.report.error(path, { value, message: `is not of the slice's addressType ${type}` });
    }
    return ip;
  });
  return present(ips);
}

/** Conditions that are absent mean ready and serving, as the EndpointSlice API documents. */
function readEndpoint(endpoint: Fields, type: AddressType): SliceEndpoint {
  const conditions = endpoint.child("conditions");
  const ready = conditions?.boolean("ready") ?? true;
  const target = endpoint.child("targetRef");
  const targetKind = target?.string("kind");
  const targetName = target?.string("name");
  return {
    addresses: readAddresses(endpoint, type),
    ready,
    serving: conditions?.boolean("serving") ?? ready,
    terminating: conditions?.boolean("terminating") ?? false,
    nodeName: endpoint.string("nodeName") || undefined,
    zone: endpoint.string("zone") || undefined,
    podName: targetKind === "Pod" ? targetName || undefined : undefined,
  };
}

function readPorts(root: Fields): EndpointSliceObject["ports"] {
  const ports = root.children("ports").map((port) => {
    const number = port.integer("port", portRange);
    const protocol = port.choice("protocol", transportProtocols, "TCP");
    if (number === undefined && !port.has("port")) {
      port.report.error(port.at("port"), {
        message: "is missing",
        hint: "a port without number is not supported",
      });
    }
    return number === undefined
      ? undefined
      : { name: port.string("name") || undefined, port: number, protocol };
  });
  return present(ports);
}

export function decodeEndpointSlice(root: Fields, apiVersion: string): EndpointSliceObject {
  const { meta } = readMeta(root, apiVersion, { namespaced: true, name: "subdomain", unknown: "warn" });
  if (!root.has("addressType"))
    root.report.error(root.at("addressType"), { message: "is missing", hint: "IPv4, IPv6 or FQDN" });
  const addressType = root.choice("addressType", ["IPv4", "IPv6", "FQDN"], "IPv4");
  const serviceName = meta.labels.get(serviceNameLabel) ?? "";
  if (serviceName === "") {
    root.report.warning(metadataPath(root, "labels", serviceNameLabel), {
      message: "is missing: the slice belongs to no service",
      hint: "set it to the service's name",
    });
  }
  return {
    kind: "EndpointSlice",
    meta,
    serviceName,
    addressType,
    ports: readPorts(root),
    endpoints: root.children("endpoints").map((endpoint) => readEndpoint(endpoint, addressType)),
  };
}
