/**
 * The demo's application: a shop on two nodes. A front end calls a catalog (HTTP, one replica on each
 * node) and a ledger (raw TCP); an intruder and a courier live beside it; an outsider is not in the mesh. The kitchen,
 * in two versions, and its oven are the waypoint act's (kitchen.ts).
 */
import { stringify } from "yaml";
import type { LabPod, Topology } from "./lab/topology.js";

export const catalogVip = "10.96.0.10";
export const catalogVip6 = "fd00:96::10";
export const ledgerVip = "10.96.0.20";
export const ledgerVip6 = "fd00:96::20";
export const catalogPort = 8080;
export const ledgerPort = 9090;

export interface PodPlan {
  readonly name: string;
  readonly node: "n1" | "n2";
  readonly host: number;
  readonly namespace: "shop" | "street";
  readonly serviceAccount: string;
  readonly app: string;
  readonly version?: string;
}

export const pods: readonly PodPlan[] = [
  { name: "frontend", node: "n1", host: 10, namespace: "shop", serviceAccount: "frontend", app: "frontend" },
  { name: "catalog-1", node: "n1", host: 11, namespace: "shop", serviceAccount: "catalog", app: "catalog" },
  { name: "catalog-2", node: "n2", host: 11, namespace: "shop", serviceAccount: "catalog", app: "catalog" },
  { name: "ledger", node: "n2", host: 12, namespace: "shop", serviceAccount: "ledger", app: "ledger" },
  { name: "intruder", node: "n1", host: 13, namespace: "shop", serviceAccount: "intruder", app: "intruder" },
  { name: "courier", node: "n1", host: 14, namespace: "shop", serviceAccount: "courier", app: "courier" },
  {
    name: "kitchen-1",
    node: "n1",
    host: 16,
    namespace: "shop",
    serviceAccount: "kitchen",
    app: "kitchen",
    version: "v1",
  },
  {
    name: "kitchen-2",
    node: "n2",
    host: 16,
    namespace: "shop",
    serviceAccount: "kitchen",
    app: "kitchen",
    version: "v2",
  },
  { name: "oven", node: "n2", host: 17, namespace: "shop", serviceAccount: "oven", app: "oven" },
  { name: "outsider", node: "n1", host: 15, namespace: "street", serviceAccount: "default", app: "outsider" },
];

type Manifest = Record<string, unknown>;

const documents = (manifests: readonly Manifest[]): string =>
  manifests.map((manifest) => stringify(manifest)).join("---\n");

export function namespaces(shopInMesh: boolean): string {
  return documents([
    {
      apiVersion: "v1",
      kind: "Namespace",
      metadata: { name: "shop", labels: shopInMesh ? { "istio.io/dataplane-mode": "ambient" } : {} },
    },
    { apiVersion: "v1", kind: "Namespace", metadata: { name: "street" } },
  ]);
}

export function nodes(topology: Topology): string {
  return documents(
    topology.nodes.map((node) => ({
      apiVersion: "v1",
      kind: "Node",
      metadata: { name: node.name, annotations: { "meltemi.io/netns": node.netns } },
      status: { addresses: [{ type: "InternalIP", address: node.ip }] },
    })),
  );
}

/** One pod's manifest; `changes` are the ways in which a row wants it otherwise. */
export function pod(
  plan: PodPlan,
  lab: LabPod,
  changes: { serviceAccount?: string; labels?: Record<string, string> } = {},
): string {
  return documents([
    {
      apiVersion: "v1",
      kind: "Pod",
      metadata: {
        name: plan.name,
        namespace: plan.namespace,
        labels: {
          app: plan.app,
          ...(plan.version === undefined ? {} : { version: plan.version }),
          ...changes.labels,
        },
        annotations: { "meltemi.io/netns": lab.netns },
      },
      spec: {
        nodeName: plan.node,
        serviceAccountName: changes.serviceAccount ?? plan.serviceAccount,
        containers: [{ name: plan.app }],
      },
      status: { phase: "Running", podIP: lab.ip, podIPs: [{ ip: lab.ip }, { ip: lab.ip6 }] },
    },
  ]);
}

export function serviceAccounts(): string {
  const accounts = [...new Set(pods.map((plan) => `${plan.namespace}/${plan.serviceAccount}`))];
  return documents(
    accounts.map((account) => {
      const [namespace, name] = account.split("/");
      return { apiVersion: "v1", kind: "ServiceAccount", metadata: { namespace, name } };
    }),
  );
}

export function services(): string {
  const service = (name: string, clusterIPs: readonly string[], port: number): Manifest => ({
    apiVersion: "v1",
    kind: "Service",
    metadata: { name, namespace: "shop" },
    spec: {
      clusterIPs,
      ipFamilies: ["IPv4", "IPv6"],
      ipFamilyPolicy: "RequireDualStack",
      selector: { app: name },
      ports: [{ name: "main", port, targetPort: port }],
    },
  });
  return documents([
    service("catalog", [catalogVip, catalogVip6], catalogPort),
    service("ledger", [ledgerVip, ledgerVip6], ledgerPort),
  ]);
}

/** Accounts that may call the catalog. */
export const catalogCallers = ["frontend", "courier"];

/** Who may call the catalog, by service account. */
export function catalogPolicy(callers: readonly string[], options: { dryRun?: boolean } = {}): string {
  return documents([
    {
      apiVersion: "security.istio.io/v1",
      kind: "AuthorizationPolicy",
      metadata: {
        name: "catalog-callers",
        namespace: "shop",
        ...(options.dryRun ? { annotations: { "istio.io/dry-run": "true" } } : {}),
      },
      spec: {
        selector: { matchLabels: { app: "catalog" } },
        action: "ALLOW",
        rules: [
          { from: [{ source: { principals: callers.map((name) => `cluster.local/ns/shop/sa/${name}`) } }] },
        ],
      },
    },
  ]);
}

export function mtls(mode: "STRICT" | "PERMISSIVE"): string {
  return documents([
    {
      apiVersion: "security.istio.io/v1",
      kind: "PeerAuthentication",
      metadata: { name: "default", namespace: "shop" },
      spec: { mtls: { mode } },
    },
  ]);
}
