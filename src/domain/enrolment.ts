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

/** The label's wish on one object: ours before Istio's, undefined when neither is set. */
function wish(labels: ReadonlyMap<string, string>): "in" | "out" | undefined {
  switch (labels.get("meltemi.io/mesh")) {
    case "enabled":
      return "in";
    case "disabled":
      return "out";
    default:
  }
  switch (labels.get("istio.io/dataplane-mode")) {
    case "ambient":
      return "in";
    case "none":
      return "out";
    default:
      return undefined;
  }
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
