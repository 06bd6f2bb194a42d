/** The simulated mesh, the same in every process: services, pods, nodes, and which node talks to what. */
import type { MeshObject, NamespaceObject, PodObject, ServiceObject } from "../../src/domain/objects.js";
import type { Meta } from "../../src/domain/objects.js";

export interface WorldSize {
  readonly services: number;
  readonly pods: number;
  readonly nodes: number;
  /** Services that each node's pods talk to. */
  readonly servicesPerNode: number;
}

export const issueSize: WorldSize = { services: 1_000, pods: 10_000, nodes: 500, servicesPerNode: 10 };

const servicesPerNamespace = 50;

function meta(namespace: string, name: string, labels: readonly (readonly [string, string])[]): Meta {
  const map = new Map(labels);
  return { apiVersion: "v1", namespace, name, uid: "", generation: 1, labels: map, annotations: new Map() };
}

export function namespaceOfService(index: number): string {
  return `team-${Math.floor(index / servicesPerNamespace)}`;
}

export function serviceIp(index: number): string {
  return `10.96.${index >> 8}.${index & 255}`;
}

export function podIp(index: number): string {
  return `10.${1 + (index >> 16)}.${(index >> 8) & 255}.${index & 255}`;
}

export function nodeOfPod(size: WorldSize, index: number): number {
  // Spread, so that the pods of one service are on different nodes.
  return (index * 7 + Math.floor(index / size.services)) % size.nodes;
}

export function nodeName(index: number): string {
  return `node-${index}`;
}

export function serviceOfPod(size: WorldSize, index: number): number {
  return index % size.services;
}

/** The services that the pods of a node talk to. */
export function servicesOfNode(size: WorldSize, node: number): readonly number[] {
  return Array.from(
    { length: size.servicesPerNode },
    (_, index) => (node * 37 + index * 101) % size.services,
  );
}

/** Nodes to which a change of the pod matters: they asked for its service, or it is theirs. */
export function interestedNodes(size: WorldSize, pod: number): ReadonlySet<number> {
  const service = serviceOfPod(size, pod);
  const nodes = new Set([nodeOfPod(size, pod)]);
  for (let node = 0; node < size.nodes; node++)
    if (servicesOfNode(size, node).includes(service)) nodes.add(node);
  return nodes;
}

export function podObject(size: WorldSize, index: number, version = "v1"): PodObject {
  const service = serviceOfPod(size, index);
  const app = `svc-${service}`;
  return {
    kind: "Pod",
    meta: meta(namespaceOfService(service), `${app}-${Math.floor(index / size.services)}`, [
      ["app", app],
      ["version", version],
      ["pod-template-hash", "6d4cf56db6"],
    ]),
    nodeName: nodeName(nodeOfPod(size, index)),
    serviceAccount: app,
    hostNetwork: false,
    ips: [podIp(index)],
    netns: undefined,
    phase: "Running",
    ready: true,
    terminating: false,
    containerNames: ["app"],
    ports: [{ name: "http", port: 8080, protocol: "TCP" }],
    owner: { kind: "ReplicaSet", name: `${app}-6d4cf56db6` },
  };
}

function serviceObject(index: number): ServiceObject {
  const app = `svc-${index}`;
  return {
    kind: "Service",
    meta: meta(namespaceOfService(index), app, []),
    type: "ClusterIP",
    externalName: undefined,
    clusterIps: [serviceIp(index)],
    ipFamilies: [],
    headless: false,
    ports: [{ name: "http", port: 80, targetPort: "http", protocol: "TCP", appProtocol: "http" }],
    selector: new Map([["app", app]]),
    sessionAffinity: "None",
    sessionAffinityTimeoutS: 10_800,
    internalTrafficPolicy: "Cluster",
    trafficDistribution: undefined,
    publishNotReadyAddresses: false,
  };
}

function namespaceObject(name: string): NamespaceObject {
  return { kind: "Namespace", meta: meta("", name, [["istio.io/dataplane-mode", "ambient"]]) };
}

export function* worldObjects(size: WorldSize): Iterable<MeshObject> {
  const namespaces = new Set(Array.from({ length: size.services }, (_, index) => namespaceOfService(index)));
  for (const name of namespaces) yield namespaceObject(name);
  for (let index = 0; index < size.services; index++) yield serviceObject(index);
  for (let index = 0; index < size.pods; index++) yield podObject(size, index);
}
