/** Small builders of complete objects, for tests and benchmarks. */
import type {
  AuthorizationPolicyObject,
  Meta,
  NamespaceObject,
  PodObject,
  ServiceObject,
} from "../../src/domain/objects.js";
import type { SourceEvent } from "../../src/domain/source-event.js";
import type { MeshObject } from "../../src/domain/objects.js";

export function meta(namespace: string, name: string, more: Partial<Meta> = {}): Meta {
  const labels = new Map<string, string>();
  return {
    apiVersion: "v1",
    namespace,
    name,
    uid: "",
    generation: 1,
    labels,
    annotations: new Map(),
    ...more,
  };
}

export function namespace(name: string, labels: Record<string, string> = {}): NamespaceObject {
  return { kind: "Namespace", meta: meta("", name, { labels: new Map(Object.entries(labels)) }) };
}

export function pod(
  space: string,
  name: string,
  ip: string,
  labels: Record<string, string>,
  more: Partial<PodObject> = {},
): PodObject {
  return {
    kind: "Pod",
    meta: meta(space, name, { labels: new Map(Object.entries(labels)) }),
    nodeName: "n1",
    serviceAccount: "default",
    hostNetwork: false,
    ips: [ip],
    netns: undefined,
    phase: "Running",
    ready: true,
    terminating: false,
    containerNames: ["app"],
    ports: [],
    owner: undefined,
    ...more,
  };
}

export function service(
  space: string,
  name: string,
  ip: string,
  selector: Record<string, string>,
  more: Partial<ServiceObject> = {},
): ServiceObject {
  return {
    kind: "Service",
    meta: meta(space, name),
    type: "ClusterIP",
    externalName: undefined,
    clusterIps: [ip],
    ipFamilies: [],
    headless: false,
    ports: [{ name: "http", port: 80, targetPort: 8080, protocol: "TCP", appProtocol: "http" }],
    selector: new Map(Object.entries(selector)),
    sessionAffinity: "None",
    sessionAffinityTimeoutS: 10_800,
    internalTrafficPolicy: "Cluster",
    trafficDistribution: undefined,
    publishNotReadyAddresses: false,
    ...more,
  };
}

export function authorizationPolicy(
  space: string,
  name: string,
  more: Partial<AuthorizationPolicyObject> = {},
): AuthorizationPolicyObject {
  return {
    kind: "AuthorizationPolicy",
    meta: meta(space, name),
    selector: undefined,
    targetRefs: [],
    action: "DENY",
    provider: undefined,
    rules: [{ from: [], to: [], when: [] }],
    dryRun: false,
    ...more,
  };
}

export function apply(...objects: readonly MeshObject[]): SourceEvent[] {
  return objects.map((object) => ({ type: "apply", object }));
}

export function remove(object: MeshObject): SourceEvent {
  return { type: "remove", kind: object.kind, namespace: object.meta.namespace, name: object.meta.name };
}
