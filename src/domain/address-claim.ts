import type { PodObject } from "./objects.js";

/** Whether a pod can have connections at all. */
export function isLive(pod: PodObject): boolean {
  return pod.phase !== "Succeeded" && pod.phase !== "Failed" && pod.ips.length > 0;
}

/** Which of two live pods with one address has it: the one that stays, else the first by name. */
export function outranks(a: PodObject, b: PodObject): boolean {
  if (a.terminating !== b.terminating) return !a.terminating;
  if (a.meta.namespace !== b.meta.namespace) return a.meta.namespace < b.meta.namespace;
  return a.meta.name < b.meta.name;
}
