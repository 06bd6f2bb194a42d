import { AliasIndex } from "./alias-index.js";
import { MultiIndex } from "./multi-index.js";
import { PolicyScopes, scopeOf, type ScopeListener } from "./policy-scope.js";
import {
  authorizationType,
  type DiscoveryClient,
  type Lookup,
  type ResourceChange,
  type ResourceSource,
  type ScopeChange,
  type SourceChange,
  type TypeUrl,
  workloadType,
  type XdsResource,
} from "./resource.js";
import { WaypointScopes } from "./waypoint/waypoint-scope.js";

export interface CacheUpdate {
  readonly upsert: readonly XdsResource[];
  /** Names of workloads and services. */
  readonly removeAddresses: readonly string[];
  readonly removeAuthorizations: readonly string[];
  /** Relay: names that the upstream has answered negatively. Ignored where absence is authoritative. */
  readonly absent?: readonly string[];
  readonly waypoints?: readonly ScopeChange[];
}

/**
 * `authoritative`: what is not here does not exist (the control plane).
 * `explicit`: only what was said to be absent is (a relay); the rest is unknown.
 */
export type Absence = "authoritative" | "explicit";

/** Resources with the indexes that discovery needs. Serves the control plane and the relay alike. */
export class ResourceCache implements ResourceSource {
  readonly #absence: Absence;
  readonly #demand: (type: TypeUrl, name: string, wanted: boolean) => void;
  readonly #addresses = new Map<string, XdsResource>();
  readonly #authorizations = new Map<string, XdsResource>();
  readonly #aliases = new AliasIndex();
  readonly #absent = new Set<string>();
  readonly #byService = new MultiIndex<string, string>();
  readonly #byNode = new MultiIndex<string, string>();
  readonly #namespacePolicies = new MultiIndex<string, string>();
  readonly #scopes = new PolicyScopes();
  readonly #waypoints = new WaypointScopes(
    {
      address: (name) => this.#addresses.get(name),
      dependents: (serviceKey) => this.dependents(serviceKey),
    },
    this.#scopes,
  );
  readonly #listeners = new Set<(change: SourceChange) => void>();
  #ready = false;

  constructor(
    absence: Absence,
    demand: (type: TypeUrl, name: string, wanted: boolean) => void = () => undefined,
  ) {
    this.#absence = absence;
    this.#demand = demand;
  }

  get ready(): boolean {
    return this.#ready;
  }

  get size(): { readonly addresses: number; readonly authorizations: number } {
    return { addresses: this.#addresses.size, authorizations: this.#authorizations.size };
  }

  lookup(type: TypeUrl, name: string): Lookup {
    const resource =
      this.get(type, name) ?? (type === authorizationType ? undefined : this.#aliases.find(name));
    if (resource && (type !== workloadType || resource.kind === "workload"))
      return { state: "found", resource };
    const absent = this.#absence === "authoritative" ? this.#ready : this.#absent.has(name);
    return { state: absent ? "absent" : "unknown" };
  }

  get(type: TypeUrl, name: string): XdsResource | undefined {
    const resource = (type === authorizationType ? this.#authorizations : this.#addresses).get(name);
    return type === workloadType && resource?.kind !== "workload" ? undefined : resource;
  }

  dependents(serviceKey: string): Iterable<string> {
    return this.#byService.get(serviceKey) ?? [];
  }

  onNode(node: string): Iterable<string> {
    return this.#byNode.get(node) ?? [];
  }

  *names(type: TypeUrl): Iterable<string> {
    if (type === authorizationType) yield* this.#authorizations.keys();
    else if (type !== workloadType) yield* this.#addresses.keys();
    else
      for (const resource of this.#addresses.values()) if (resource.kind === "workload") yield resource.name;
  }

  inScope(client: DiscoveryClient, authorization: XdsResource): boolean {
    if (client.waypoint === undefined && (!client.onDemand || client.node === "")) return true;
    return this.#scopes.includes(scopeOf(client), authorization);
  }

  namedTo(waypoint: string): Iterable<string> {
    return this.#waypoints.names(waypoint);
  }

  onChange(listener: (change: SourceChange) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  demand(type: TypeUrl, name: string, wanted: boolean): void {
    // What nobody asks for any more is no longer told about: the old answer must not outlive the subscription.
    if (!wanted && type !== authorizationType) this.#absent.delete(name);
    this.#demand(type, name, wanted);
  }

  /** Applies one consistent change and tells the listeners. `ready` marks the first complete state. */
  apply(update: CacheUpdate, ready = true): void {
    const resources: ResourceChange[] = [];
    const names: string[] = [];
    const scoped = new MultiIndex<string, string>();
    const changed: ScopeListener = (scope, what) => {
      if ("policy" in what) scoped.add(scope, what.policy);
      else for (const policy of this.#namespacePolicies.get(what.namespace) ?? []) scoped.add(scope, policy);
    };
    for (const name of update.removeAddresses) {
      const before = this.#addresses.get(name);
      if (before) resources.push(this.#replace(before, undefined, changed));
    }
    for (const name of update.removeAuthorizations) {
      const before = this.#authorizations.get(name);
      if (before) resources.push(this.#replace(before, undefined, changed));
    }
    for (const after of update.upsert) {
      const before = (after.kind === "authorization" ? this.#authorizations : this.#addresses).get(
        after.name,
      );
      if (before !== after) resources.push(this.#replace(before, after, changed));
      this.#absent.delete(after.name);
      for (const alias of after.aliases) this.#absent.delete(alias);
    }
    for (const name of update.absent ?? []) {
      this.#absent.add(name);
      names.push(name);
    }
    const { waypoints = [] } = update;
    for (const one of waypoints) this.#waypoints.change(one, changed);
    const becameReady = ready && !this.#ready;
    this.#ready ||= ready;
    const change: SourceChange = {
      resources,
      names,
      scoped: [...scoped.keys()].map((scope) => ({ scope, authorizations: [...(scoped.get(scope) ?? [])] })),
      waypoints,
      becameReady,
    };
    if (resources.length === 0 && names.length === 0 && waypoints.length === 0 && !becameReady) return;
    for (const listener of this.#listeners) listener(change);
  }

  #replace(
    before: XdsResource | undefined,
    after: XdsResource | undefined,
    changed: ScopeListener,
  ): ResourceChange {
    const kind = (after ?? before)?.kind;
    if (kind === "authorization") this.#replaceAuthorization(before, after);
    else this.#replaceAddress(before, after, changed);
    return { before, after };
  }

  #replaceAuthorization(before: XdsResource | undefined, after: XdsResource | undefined): void {
    if (before) {
      this.#authorizations.delete(before.name);
      if (before.scope === "namespace") this.#namespacePolicies.delete(before.namespace, before.name);
    }
    if (!after) return;
    this.#authorizations.set(after.name, after);
    if (after.scope === "namespace") this.#namespacePolicies.add(after.namespace, after.name);
  }

  #replaceAddress(
    before: XdsResource | undefined,
    after: XdsResource | undefined,
    changed: ScopeListener,
  ): void {
    if (before) {
      if (!after) this.#addresses.delete(before.name);
      this.#aliases.remove(before);
      for (const service of before.services) this.#byService.delete(service, before.name);
      if (before.node !== "") this.#byNode.delete(before.node, before.name);
    }
    if (after) {
      this.#addresses.set(after.name, after);
      this.#aliases.add(after);
      for (const service of after.services) this.#byService.add(service, after.name);
      if (after.node !== "") this.#byNode.add(after.node, after.name);
    }
    this.#scopes.replace(before, after, changed);
    this.#waypoints.replace(before, after, changed);
  }
}
