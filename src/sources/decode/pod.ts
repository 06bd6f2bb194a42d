import type { ContainerPort, PodObject } from "../../domain/objects.js";
import { readNetns } from "./core.js";
import { portRange, type Fields } from "./fields.js";
import { readMeta } from "./meta.js";
import { readHostIp, transportProtocols, type DecodeOptions } from "./shared.js";

const phases = ["Pending", "Running", "Succeeded", "Failed", "Unknown"] as const;

/** `status.podIP` first, then the rest of `status.podIPs`, each once. */
function readIps(status: Fields | undefined): readonly string[] {
  if (!status) return [];
  const ips = new Set<string>();
  const first = status.string("podIP");
  if (first !== undefined && first !== "") {
    const ip = readHostIp(status.report, status.at("podIP"), first);
    if (ip !== undefined) ips.add(ip);
  }
  for (const entry of status.children("podIPs")) {
    const text = entry.requiredString("ip");
    const ip = text === undefined ? undefined : readHostIp(status.report, entry.at("ip"), text);
    if (ip !== undefined) ips.add(ip);
  }
  return [...ips];
}

interface Containers {
  readonly names: string[];
  readonly ports: ContainerPort[];
}

function readContainer(container: Fields, containers: Containers): void {
  const name = container.requiredString("name");
  if (name !== undefined) containers.names.push(name);
  for (const port of container.children("ports")) {
    const number = port.integer("containerPort", portRange);
    if (number === undefined) {
      if (!port.has("containerPort")) port.report.error(port.at("containerPort"), { message: "is missing" });
      continue;
    }
    containers.ports.push({
      name: port.string("name"),
      port: number,
      protocol: port.choice("protocol", transportProtocols, "TCP"),
    });
  }
}

/** Containers that run as long as the pod: the ordinary ones, and init containers that are sidecars (restartPolicy Always). */
function readContainers(spec: Fields): Containers {
  const containers: Containers = { names: [], ports: [] };
  for (const container of spec.children("containers")) readContainer(container, containers);
  for (const container of spec.children("initContainers")) {
    if (container.string("restartPolicy") === "Always") readContainer(container, containers);
  }
  return containers;
}

/** Condition Ready; in a directory, where nobody keeps conditions, a pod without one is ready. */
function readReady(status: Fields | undefined, origin: DecodeOptions["origin"]): boolean {
  for (const condition of status?.children("conditions") ?? []) {
    if (condition.string("type") === "Ready") return condition.string("status") === "True";
  }
  return origin === "files";
}

export function decodePod(root: Fields, apiVersion: string, options: DecodeOptions): PodObject {
  const { meta, terminating, owner } = readMeta(root, apiVersion, {
    namespaced: true,
    name: "subdomain",
    unknown: "warn",
  });
  const spec = root.childOrEmpty("spec");
  const status = root.child("status");
  const nodeName = spec.string("nodeName");
  const containers = readContainers(spec);
  return {
    kind: "Pod",
    meta,
    nodeName: nodeName === "" ? undefined : nodeName,
    serviceAccount: spec.string("serviceAccountName") || spec.string("serviceAccount") || "default",
    hostNetwork: spec.boolean("hostNetwork") ?? false,
    ips: readIps(status),
    netns: readNetns(root, meta.annotations),
    phase: status?.choice("phase", phases, defaultPhase(options)) ?? defaultPhase(options),
    ready: readReady(status, options.origin),
    terminating,
    containerNames: containers.names,
    ports: containers.ports,
    owner,
  };
}

function defaultPhase(options: DecodeOptions): "Running" | "Pending" {
  return options.origin === "files" ? "Running" : "Pending";
}
