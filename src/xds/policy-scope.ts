import type { DiscoveryClient, XdsResource } from "./resource.js";

class Counter {
  readonly #counts = new Map<string, number>();

  has(key: string): boolean {
    return this.#counts.has(key);
  }

  /** Adds and answers whether the key came in or went out. */
  add(key: string, by: 1 | -1): boolean {
    const count = (this.#counts.get(key) ?? 0) + by;
    if (count > 0) this.#counts.set(key, count);
    else this.#counts.delete(key);
    return by === 1 ? count === 1 : count === 0;
  }

  get empty(): boolean {
    return this.#counts.size === 0;
  }
}

interface Scope {
  readonly namespaces: Counter;
  readonly policies: Counter;
}

/** Hears of a namespace or a selecting policy that came into a scope or went out. */
export type ScopeListener = (
  scope: string,
  what: { readonly namespace: string } | { readonly policy: string },
) => void;

/** The scope of a waypoint's clients; no node has such a name. */
export const waypointScope = (waypoint: string): string => `waypoint:${waypoint}`;

/** Under which name a client's scope is kept; empty for one that has none. */
export function scopeOf({ node, waypoint }: DiscoveryClient): string {
  return waypoint === undefined ? node : waypointScope(waypoint);
}

/**
 * Which namespaces and which selecting policies the workloads of each scope bring into it: those on a node
 * (node-interfaces.md, "On-demand discovery"), or those that a waypoint sends to.
 */
export class PolicyScopes {
  readonly #scopes = new Map<string, Scope>();

  includes(scope: string, authorization: XdsResource): boolean {
    switch (authorization.scope) {
      case "global":
      case undefined:
        return true;
      case "namespace":
        return this.#scopes.get(scope)?.namespaces.has(authorization.namespace) ?? false;
      case "selector":
        return this.#scopes.get(scope)?.policies.has(authorization.name) ?? false;
    }
  }

  /**
   * Replaces a workload's part on its node. Tells of every namespace and policy that came in or went out,
   * also of those that only seem to (out and in again): the listener looks at the present state.
   */
  replace(before: XdsResource | undefined, after: XdsResource | undefined, changed: ScopeListener): void {
    if (after && after.node !== "") this.count(after.node, after, 1, changed);
    if (before && before.node !== "") this.count(before.node, before, -1, changed);
  }

  /** Takes a workload into a scope, or out of it: with the facts it went in with. */
  count(scope: string, workload: XdsResource, by: 1 | -1, changed: ScopeListener): void {
    let counters = this.#scopes.get(scope);
    if (!counters)
      this.#scopes.set(scope, (counters = { namespaces: new Counter(), policies: new Counter() }));
    const { namespace } = workload;
    if (counters.namespaces.add(namespace, by)) changed(scope, { namespace });
    for (const policy of workload.policies) if (counters.policies.add(policy, by)) changed(scope, { policy });
    if (counters.namespaces.empty && counters.policies.empty) this.#scopes.delete(scope);
  }
}
