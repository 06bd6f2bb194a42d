import type { XdsResource } from "./resource.js";

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

/**
 * Which namespaces and which selecting policies the pods of each node bring into its scope
 * (node-interfaces.md, "On-demand discovery").
 */
export class NodeScopes {
  readonly #nodes = new Map<string, Scope>();

  includes(node: string, authorization: XdsResource): boolean {
    switch (authorization.scope) {
      case "global":
      case undefined:
        return true;
      case "namespace":
        return this.#nodes.get(node)?.namespaces.has(authorization.namespace) ?? false;
      case "selector":
        return this.#nodes.get(node)?.policies.has(authorization.name) ?? false;
    }
  }

  /**
   * Replaces a workload's part. Tells of every namespace and policy that came in or went out, also of
   * those that only seem to (out and in again): the listener looks at the present state.
   */
  replace(
    before: XdsResource | undefined,
    after: XdsResource | undefined,
    changed: (node: string, what: { readonly namespace: string } | { readonly policy: string }) => void,
  ): void {
    if (after) this.#count(after, 1, changed);
    if (before) this.#count(before, -1, changed);
  }

  #count(
    workload: XdsResource,
    by: 1 | -1,
    changed: (node: string, what: { readonly namespace: string } | { readonly policy: string }) => void,
  ): void {
    const { node, namespace } = workload;
    if (node === "") return;
    let scope = this.#nodes.get(node);
    if (!scope) this.#nodes.set(node, (scope = { namespaces: new Counter(), policies: new Counter() }));
    if (scope.namespaces.add(namespace, by)) changed(node, { namespace });
    for (const policy of workload.policies) if (scope.policies.add(policy, by)) changed(node, { policy });
    if (scope.namespaces.empty && scope.policies.empty) this.#nodes.delete(node);
  }
}
