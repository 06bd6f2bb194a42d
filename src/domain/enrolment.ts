import type { NamespaceObject, PodObject } from "./objects.js";

/** Why a pod is in the mesh, or is not. */
export type Enrolment =
  { readonly enrolled: true } | { readonly enrolled: false; readonly reason: OutReason };

export type OutReason =
  | "not_labelled"
  | "opted_out"
  | "host_network"
  | "has_sidecar"
  | "system_namespace"
  | "terminated"
  | "no_address";

export interface EnrolmentRules {
  /** Namespaces whose pods are never enrolled: the mesh's own and the system's. */
  readonly excludedNamespaces: ReadonlySet<string>;
}

export const defaultEnrolmentRules: EnrolmentRules = {
  excludedNamespaces: new Set([
    "kube-system",
    "kube-public",
    "kube-node-lease",
    "istio-system",
    "meltemi-system",
  ]),
};

/**
 * The labels of the wish, in the order of their weight: ours before Istio's. As data, because the CNI plugin
 * judges by them while no agent answers (native/crates/cni/src/wish.rs).
 */
export const wishLabels = [
  { key: "meltemi.io/mesh", in: "enabled", out: "disabled" },
  { key: "istio.io/dataplane-mode", in: "ambient", out: "none" },
] as const;

/** The labels' wish on one object: that of the first that says something, undefined where none does. */
function wish(labels: ReadonlyMap<string, string>): "in" | "out" | undefined {
  for (const label of wishLabels) {
    const value = labels.get(label.key);
    if (value === label.in) return "in";
    if (value === label.out) return "out";
  }
  return undefined;
}

/** Whether an object's own label asks for the mesh: of a namespace, for those of its pods that do not say otherwise. */
export function asksForMesh(object: NamespaceObject | PodObject): boolean {
  return wish(object.meta.labels) === "in";
}

/**
 * The rule that turns labels into "enrolled": the pod's own label, else its namespace's
 * (wire-contract.md, "Kubernetes"). Used by agent and control plane alike.
 */
export function enrolment(
  pod: PodObject,
  namespace: NamespaceObject | undefined,
  rules: EnrolmentRules,
): Enrolment {
  const wanted = wish(pod.meta.labels) ?? (namespace && wish(namespace.meta.labels));
  if (wanted === undefined) return { enrolled: false, reason: "not_labelled" };
  if (wanted === "out") return { enrolled: false, reason: "opted_out" };
  if (rules.excludedNamespaces.has(pod.meta.namespace))
    return { enrolled: false, reason: "system_namespace" };
  if (pod.hostNetwork) return { enrolled: false, reason: "host_network" };
  if (pod.containerNames.includes("istio-proxy") || pod.meta.annotations.has("sidecar.istio.io/status")) {
    return { enrolled: false, reason: "has_sidecar" };
  }
  if (pod.phase === "Succeeded" || pod.phase === "Failed") return { enrolled: false, reason: "terminated" };
  if (pod.ips.length === 0) return { enrolled: false, reason: "no_address" };
  return { enrolled: true };
}
