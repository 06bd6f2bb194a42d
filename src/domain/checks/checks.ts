import type { MeshObject } from "../objects.js";
import type { Problem } from "../problem.js";
import { Inventory, type CheckOptions } from "./inventory.js";
import { routeProblems } from "./route-checks.js";
import {
  peerAuthenticationProblems,
  policyProblems,
  requestAuthenticationProblems,
} from "./policy-checks.js";
import {
  familiesWithoutPods,
  orphanedSlices,
  unselectiveEntries,
  unselectiveServices,
  wantedWaypoints,
} from "./service-checks.js";
import { destinationRuleProblems, virtualServiceProblems } from "./traffic-checks.js";
import { incompletePods, missingNamespaces, sharedAddresses, unknownWishes } from "./workload-checks.js";

export type { CheckOptions } from "./inventory.js";

const checks: readonly ((inventory: Inventory) => Problem[])[] = [
  sharedAddresses,
  unknownWishes,
  missingNamespaces,
  incompletePods,
  unselectiveServices,
  familiesWithoutPods,
  unselectiveEntries,
  orphanedSlices,
  wantedWaypoints,
  routeProblems,
  virtualServiceProblems,
  destinationRuleProblems,
  policyProblems,
  peerAuthenticationProblems,
  requestAuthenticationProblems,
];

/** Objects that one step takes in. */
const objectsPerStep = 500;

/**
 * What is wrong, or unwise, between objects that are each right by themselves. Pure; for `analyze`,
 * for status and for admission. Problems carry no location: they are about objects, not files.
 */
export function checkObjects(objects: Iterable<MeshObject>, options: CheckOptions): Problem[] {
  const steps = checkInSteps(objects, options);
  for (;;) {
    const { done, value } = steps.next();
    if (done) return value;
  }
}

/** The same in steps of a few milliseconds, for who has other things to do. The objects must not change meanwhile. */
export function* checkInSteps(
  objects: Iterable<MeshObject>,
  options: CheckOptions,
): Generator<void, Problem[], void> {
  const inventory = new Inventory(options);
  let taken = 0;
  for (const object of objects) {
    inventory.add(object);
    if (++taken % objectsPerStep === 0) yield;
  }
  const problems: Problem[] = [];
  for (const check of checks) {
    yield;
    // One by one: a spread of very many would not fit on the stack.
    for (const problem of check(inventory)) problems.push(problem);
  }
  return problems;
}
