import { stringify } from "yaml";
import type { LabPod } from "../../demo/lab/topology.js";
import { ports } from "../l4/contender.js";

type Manifest = Record<string, unknown>;

/** A captured pod, in a namespace of the mesh. What it sends to the sink's port is not captured. */
export const captured = (pod: LabPod): Manifest => manifest(pod, "shop");

/** A pod outside of the mesh. */
export const plain = (pod: LabPod): Manifest => manifest(pod, "plain");

const manifest = ({ name, netns, ip, node }: LabPod, namespace: string): Manifest => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: {
    name,
    namespace,
    annotations: {
      "meltemi.io/netns": netns,
      "meltemi.io/exclude-outbound-ports": String(ports.sink),
    },
  },
  spec: { nodeName: node.name, serviceAccountName: name, containers: [{ name: "app" }] },
  status: { phase: "Running", podIP: ip },
});

export const namespaces: readonly Manifest[] = [
  {
    apiVersion: "v1",
    kind: "Namespace",
    metadata: { name: "shop", labels: { "istio.io/dataplane-mode": "ambient" } },
  },
  { apiVersion: "v1", kind: "Namespace", metadata: { name: "plain" } },
];

export const yaml = (documents: readonly Manifest[]): string =>
  documents.map((document) => stringify(document)).join("---\n");
