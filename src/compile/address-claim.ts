/**
 * Who answers for an address when several objects give it. Anybody may write another's address into an
 * entry: that must not change who the address is known to be, or how it is reached.
 */
import { isLive } from "../domain/address-claim.js";
import type { EndpointSliceObject, ServiceEntryObject, WorkloadEntryObject } from "../domain/objects.js";
import { type Mesh, nameOf } from "../model/mesh.js";

/** Whether a live pod has the address. */
export function isPodAddress(mesh: Mesh, ip: string): boolean {
  for (const name of mesh.podsByIp.get(ip)) {
    const pod = mesh.pods.named(name);
    if (pod && isLive(pod)) return true;
  }
  return false;
}

type Claimant = WorkloadEntryObject | ServiceEntryObject | EndpointSliceObject;

/** A pod before a WorkloadEntry before a ServiceEntry's endpoint before an EndpointSlice's. */
const ranks = { WorkloadEntry: 1, ServiceEntry: 2, EndpointSlice: 3 } as const;

function precedes(a: Claimant, b: Claimant): boolean {
  return a.kind === b.kind ? nameOf(a) < nameOf(b) : ranks[a.kind] < ranks[b.kind];
}

/**
 * Whether somebody else answers for the address. The endpoint then still serves its own service, and
 * is not found by its address (as ambient has it for pods on their host's network).
 */
export function isOutranked(mesh: Mesh, claimant: Claimant, ip: string): boolean {
  if (isPodAddress(mesh, ip)) return true;
  for (const other of mesh.entriesByIp.get(ip))
    if (other !== claimant && precedes(other, claimant)) return true;
  for (const other of mesh.slicesByIp.get(ip))
    if (other !== claimant && precedes(other, claimant)) return true;
  return false;
}
