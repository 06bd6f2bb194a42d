import type { Meta } from "./objects.js";

/** Which of two rules for the same thing counts, as Istio has it: the older one, then the first by name. */
export function isOlder(a: { readonly meta: Meta }, b: { readonly meta: Meta }): boolean {
  const [createdA, createdB] = [a.meta.createdAt ?? "", b.meta.createdAt ?? ""];
  if (createdA !== createdB) {
    if (createdA === "" || createdB === "") return createdA !== "";
    return Date.parse(createdA) < Date.parse(createdB);
  }
  return `${a.meta.namespace}/${a.meta.name}` < `${b.meta.namespace}/${b.meta.name}`;
}
