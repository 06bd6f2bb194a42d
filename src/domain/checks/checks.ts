import type { MeshObject } from "../objects.js";
import type { Problem } from "../problem.js";
import { Inventory, type CheckOptions } from "./inventory.js";
import { peerAuthenticationProblems, policyProblems } from "./policy-checks.js";
import {
  missingWaypoints,
  orphanedSlices,
  unselectiveEntries,
  unselectiveServices,
} from "./service-checks.js";
import { incompletePods, missingNamespaces, sharedAddresses, unknownWishes } from "./workload-checks.js";

export type { CheckOptions } from "./inventory.js";

/**
 * What is wrong, or unwise, between objects that are each right by themselves. Pure; for `analyze`,
 * for status and for admission. Problems carry no location: they are about objects, not files.
 */
export function checkObjects(objects: Iterable<MeshObject>, options: CheckOptions): Problem[] {
  const inventory = new Inventory(objects, options);
  return [
    ...sharedAddresses(inventory),
    ...unknownWishes(inventory),
    ...missingNamespaces(inventory),
    ...incompletePods(inventory),
    ...unselectiveServices(inventory),
    ...unselectiveEntries(inventory),
    ...orphanedSlices(inventory),
    ...missingWaypoints(inventory),
    ...policyProblems(inventory),
    ...peerAuthenticationProblems(inventory),
  ];
}
