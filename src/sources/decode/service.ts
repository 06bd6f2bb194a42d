import type { ServiceObject, ServicePort } from "../../domain/objects.js";
import { portRange, type Fields } from "./fields.js";
import { metadataPath, readLabels, readMeta } from "./meta.js";
import { readServiceAddresses } from "./service-addresses.js";
import { appProtocol, present, transportProtocols } from "./shared.js";

const types = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"] as const;
const distributionAnnotation = "networking.istio.io/traffic-distribution";
/** Kubernetes' default of `sessionAffinityConfig.clientIP.timeoutSeconds`, seconds. */
const defaultAffinityTimeoutS = 10_800;

/** A number, or the name of a container port (an IANA service name, at most 15 characters). */
function readTargetPort(port: Fields, fallback: number): number | string {
  const raw = port.raw("targetPort");
  if (raw === undefined || raw === 0 || raw === "") return fallback;
  if (typeof raw === "string") {
    if (/^(?=.*[a-z])[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?$/.test(raw)) return raw;
    const hint = /^\d+$/.test(raw)
      ? "write the number without quotes"
      : "a number, or the name of a container's port";
    port.report.error(port.at("targetPort"), { value: raw, message: "is not a port", hint });
    return fallback;
  }
  return port.integer("targetPort", portRange) ?? fallback;
}

function readPort(port: Fields): ServicePort | undefined {
  const number = port.integer("port", portRange);
  if (number === undefined) {
    if (!port.has("port")) port.report.error(port.at("port"), { message: "is missing" });
    return undefined;
  }
  const name = port.string("name") || undefined;
  return {
    name,
    port: number,
    targetPort: readTargetPort(port, number),
    protocol: port.choice("protocol", transportProtocols, "TCP"),
    appProtocol: appProtocol(port.string("appProtocol") || undefined, name),
  };
}

function readPorts(spec: Fields): ServicePort[] {
  const ports = spec.children("ports").map((fields) => ({ fields, port: readPort(fields) }));
  const names = new Set<string>();
  const numbers = new Set<string>();
  for (const { fields, port } of ports) {
    if (!port) continue;
    const { name } = port;
    if (name === undefined) {
      if (ports.length > 1) {
        fields.report.error(fields.at("name"), {
          message: "is missing",
          hint: "a service of several ports names each",
        });
      }
    } else if (names.has(name)) {
      fields.report.error(fields.at("name"), { value: name, message: "is another port's name" });
    } else names.add(name);
    const number = `${port.protocol}/${port.port}`;
    if (numbers.has(number))
      fields.report.error(fields.at("port"), { value: port.port, message: "is listed twice" });
    numbers.add(number);
  }
  return present(ports.map(({ port }) => port));
}

/** `spec.trafficDistribution` before the annotation; PreferClose is the older name of PreferSameZone. */
function readDistribution(
  root: Fields,
  spec: Fields,
  annotations: ReadonlyMap<string, string>,
): ServiceObject["trafficDistribution"] {
  const written = spec.string("trafficDistribution");
  const value = written ?? annotations.get(distributionAnnotation);
  switch (value) {
    case undefined:
    case "":
    case "Any":
      return undefined;
    case "PreferClose":
    case "PreferSameZone":
      return "PreferSameZone";
    case "PreferSameNode":
      return "PreferSameNode";
    default: {
      const path =
        written === undefined
          ? metadataPath(root, "annotations", distributionAnnotation)
          : spec.at("trafficDistribution");
      spec.report.warning(path, {
        value,
        message: "is not known and has no effect",
        hint: "PreferSameZone (or PreferClose) or PreferSameNode",
      });
      return undefined;
    }
  }
}

function readAffinityTimeout(spec: Fields): number {
  const clientIp = spec.child("sessionAffinityConfig")?.child("clientIP");
  return clientIp?.integer("timeoutSeconds", { min: 1, max: 86_400 }) ?? defaultAffinityTimeoutS;
}

export function decodeService(root: Fields, apiVersion: string): ServiceObject {
  const { meta } = readMeta(root, apiVersion, { namespaced: true, name: "label", unknown: "warn" });
  const spec = root.childOrEmpty("spec");
  const type = spec.choice("type", types, "ClusterIP");
  const externalName = spec.string("externalName");
  const ports = readPorts(spec);
  const selector = readLabels(spec, "selector");
  const { clusterIps, headless, ipFamilies } = readServiceAddresses(spec);
  if (type === "ExternalName" && !externalName) {
    spec.report.error(spec.at("externalName"), {
      message: "is missing",
      hint: "a service of type ExternalName names a host",
    });
  }
  if (type !== "ExternalName" && !headless && (!spec.has("ports") || spec.isEmptyList("ports"))) {
    spec.report.error(spec.at("ports"), { message: "is missing", hint: "list at least one port" });
  }
  return {
    kind: "Service",
    meta,
    type,
    externalName: type === "ExternalName" ? externalName : undefined,
    clusterIps,
    ipFamilies,
    headless,
    ports,
    selector: selector.size === 0 || type === "ExternalName" ? undefined : selector,
    sessionAffinity: spec.choice("sessionAffinity", ["None", "ClientIP"], "None"),
    sessionAffinityTimeoutS: readAffinityTimeout(spec),
    internalTrafficPolicy: spec.choice("internalTrafficPolicy", ["Cluster", "Local"], "Cluster"),
    trafficDistribution: readDistribution(root, spec, meta.annotations),
    publishNotReadyAddresses: spec.boolean("publishNotReadyAddresses") ?? false,
  };
}
