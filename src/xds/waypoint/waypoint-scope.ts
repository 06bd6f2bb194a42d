import { MultiIndex } from "../multi-index.js";
import { type PolicyScopes, type ScopeListener, waypointScope } from "../policy-scope.js";
import type { ScopeChange, XdsResource } from "../resource.js";

/** The resources that scopes are drawn over. */
export interface Addresses {
  address(name: string): XdsResource | undefined;
  /** Names of the workloads that belong to a service. */
  dependents(serviceKey: string): Iterable<string>;
}

/**
 * What of the mesh each waypoint is told (docs/waypoint.md, "What it is told"): the services and workloads
 * named to it, with the services' endpoints, and so which policies judge them.
 */
export class WaypointScopes {
  /** Waypoint to keys of services and uids of workloads. */
  readonly #names = new MultiIndex<string, string>();
  readonly #wantedBy = new MultiIndex<string, string>();
  /** Waypoint to the workloads that are counted in its scope. */
  readonly #members = new MultiIndex<string, string>();

  constructor(
    private readonly addresses: Addresses,
    private readonly policies: PolicyScopes,
  ) {}

  names(waypoint: string): Iterable<string> {
    return this.#names.get(waypoint) ?? [];
  }

  /** A workload was replaced; the addresses have taken it already. */
  replace(before: XdsResource | undefined, after: XdsResource | undefined, changed: ScopeListener): void {
    const resource = after ?? before;
    if (resource?.kind !== "workload") return;
    const keys = [resource.name, ...(before?.services ?? []), ...(after?.services ?? [])];
    const waypoints = new Set(keys.flatMap((key) => [...(this.#wantedBy.get(key) ?? [])]));
    for (const waypoint of waypoints) {
      const was = this.#members.get(waypoint)?.has(resource.name) ?? false;
      const is = after !== undefined && this.#wants(waypoint, after);
      // In before out: what both bring never seems to be gone.
      if (after && is) this.#take(waypoint, after, changed);
      if (before && was) this.#drop(waypoint, before, is, changed);
    }
  }

  /** Names came into a waypoint's scope or went out of it. */
  change({ waypoint, added, removed }: ScopeChange, changed: ScopeListener): void {
    for (const name of added) {
      this.#names.add(waypoint, name);
      this.#wantedBy.add(name, waypoint);
    }
    for (const name of removed) {
      this.#names.delete(waypoint, name);
      this.#wantedBy.delete(name, waypoint);
    }
    for (const name of [...added, ...removed])
      for (const uid of [name, ...this.addresses.dependents(name)]) this.#refresh(waypoint, uid, changed);
  }

  #refresh(waypoint: string, uid: string, changed: ScopeListener): void {
    const workload = this.addresses.address(uid);
    if (workload?.kind !== "workload") return;
    const was = this.#members.get(waypoint)?.has(uid) ?? false;
    const is = this.#wants(waypoint, workload);
    if (is && !was) this.#take(waypoint, workload, changed);
    if (was && !is) this.#drop(waypoint, workload, false, changed);
  }

  #wants(waypoint: string, { name, services }: XdsResource): boolean {
    const names = this.#names.get(waypoint);
    return names !== undefined && [name, ...services].some((one) => names.has(one));
  }

  #take(waypoint: string, workload: XdsResource, changed: ScopeListener): void {
    this.#members.add(waypoint, workload.name);
    this.policies.count(waypointScope(waypoint), workload, 1, changed);
  }

  #drop(waypoint: string, workload: XdsResource, stays: boolean, changed: ScopeListener): void {
    if (!stays) this.#members.delete(waypoint, workload.name);
    this.policies.count(waypointScope(waypoint), workload, -1, changed);
  }
}
