import { stringify } from "yaml";
import { nodes } from "../../demo/manifests.js";
import type { LabPod, Topology } from "../../demo/lab/topology.js";

type Manifest = Record<string, unknown>;

const pod = ({ name, netns, ip, node }: LabPod): Manifest => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name, namespace: "bench", labels: { app: name }, annotations: { "meltemi.io/netns": netns } },
  spec: { nodeName: node.name, serviceAccountName: name, containers: [{ name: "app" }] },
  status: { phase: "Running", podIP: ip },
});

/** The mesh of the contenders that are one: their pods, in a namespace that takes nothing but mutual TLS. */
export function manifests(topology: Topology, pods: readonly LabPod[]): string {
  const documents: Manifest[] = [
    {
      apiVersion: "v1",
      kind: "Namespace",
      metadata: { name: "bench", labels: { "istio.io/dataplane-mode": "ambient" } },
    },
    {
      apiVersion: "security.istio.io/v1",
      kind: "PeerAuthentication",
      metadata: { name: "default", namespace: "bench" },
      spec: { mtls: { mode: "STRICT" } },
    },
    ...pods.map(({ name }) => ({
      apiVersion: "v1",
      kind: "ServiceAccount",
      metadata: { name, namespace: "bench" },
    })),
    ...pods.map(pod),
  ];
  return [nodes(topology), ...documents.map((document) => stringify(document))].join("---\n");
}
