import { Interest } from "./interest.js";
import { waypointScope } from "./policy-scope.js";
import {
  addressType,
  authorizationType,
  type DiscoveryClient,
  type ResourceSource,
  type SourceChange,
  type TypeUrl,
  typeUrls,
  workloadType,
  type XdsResource,
} from "./resource.js";
import { Spellings } from "./spellings.js";
import { type Acknowledgement, type DeltaRequest, type DeltaResponse, Subscription } from "./subscription.js";

export type SubscriptionInfo = Subscription["info"] & { readonly type: TypeUrl };

/** One discovery stream: its subscriptions, and in which order they may speak. Pure. */
export class DeltaStream {
  readonly client: DiscoveryClient;
  readonly subscriptions: ReadonlyMap<TypeUrl, Subscription>;
  readonly #active = new Set<TypeUrl>();
  readonly #spellings: ReadonlyMap<TypeUrl, Spellings> = new Map(
    typeUrls.map((type) => [type, new Spellings()]),
  );

  constructor(client: DiscoveryClient, subscriptions: ReadonlyMap<TypeUrl, Subscription>) {
    this.client = client;
    this.subscriptions = subscriptions;
  }

  get info(): readonly SubscriptionInfo[] {
    return [...this.subscriptions.values()]
      .filter(({ type }) => this.#active.has(type))
      .map((one) => ({ type: one.type, ...one.info }));
  }

  request(type: TypeUrl, request: DeltaRequest): Acknowledgement {
    this.#active.add(type);
    const subscription = this.subscriptions.get(type);
    const spellings = this.#spellings.get(type);
    if (!subscription || !spellings) return { type: "none" };
    return subscription.request(spellings.ours(request, (name) => subscription.asks(name)));
  }

  /**
   * The next response to send. Workloads wait while newer policies do: a workload is never told about a
   * policy that the client could not have yet.
   */
  next(): DeltaResponse | undefined {
    for (const type of typeUrls) {
      const subscription = this.subscriptions.get(type);
      const response = subscription?.next();
      if (response) return this.#spellings.get(type)?.theirs(response) ?? response;
      if (type === authorizationType && subscription?.blocked) return undefined;
    }
    return undefined;
  }

  /** Whether something is still to be told that waits for the client's answer. */
  get blocked(): boolean {
    return [...this.subscriptions.values()].some((subscription) => subscription.blocked);
  }

  /** Lets go of what a waypoint is no longer to be told: see `Subscription.release`. */
  release(): void {
    for (const subscription of this.subscriptions.values()) subscription.release();
  }

  becameReady(): void {
    for (const subscription of this.subscriptions.values()) subscription.becameReady();
  }

  close(): void {
    for (const type of this.#active) this.subscriptions.get(type)?.close();
  }
}

/**
 * Spreads a source's changes over the open streams, touching only those that asked. `wake` of a
 * stream is called after a change for it has been noted, at most once per change.
 */
export class DiscoveryHub {
  readonly source: ResourceSource;
  readonly #nowMs: () => number;
  readonly #interests: ReadonlyMap<TypeUrl, Interest<Subscription>> = new Map(
    typeUrls.map((type) => [type, new Interest<Subscription>()]),
  );
  readonly #streams = new Map<DeltaStream, () => void>();
  readonly #owners = new Map<Subscription, DeltaStream>();
  readonly #stop: () => void;

  /** `nowMs`: a monotonic clock in milliseconds. */
  constructor(source: ResourceSource, nowMs: () => number) {
    this.source = source;
    this.#nowMs = nowMs;
    this.#stop = source.onChange((change) => this.#spread(change));
  }

  get streams(): IterableIterator<DeltaStream> {
    return this.#streams.keys();
  }

  /** Opens a stream. `wake` tells that `next` may have something. */
  open(client: DiscoveryClient, wake: () => void): DeltaStream {
    const subscriptions = new Map<TypeUrl, Subscription>();
    for (const [type, interest] of this.#interests)
      subscriptions.set(type, new Subscription(type, client, this.source, interest));
    const stream = new DeltaStream(client, subscriptions);
    for (const subscription of subscriptions.values()) this.#owners.set(subscription, stream);
    this.#streams.set(stream, wake);
    return stream;
  }

  closeStream(stream: DeltaStream): void {
    if (!this.#streams.delete(stream)) return;
    stream.close();
    for (const subscription of stream.subscriptions.values()) this.#owners.delete(subscription);
  }

  close(): void {
    this.#stop();
  }

  #spread(change: SourceChange): void {
    const atMs = this.#nowMs();
    const touched = new Set<Subscription>();
    // First who wanted what changed, then what the asked names stand for now: a service that goes takes its
    // subscribers' interest along, and its endpoints may have left it in the same change.
    for (const { before, after } of change.resources) this.#touchWanting(before, after, atMs, touched);
    for (const { before, after } of change.resources) this.#touchNames(before, after, atMs, touched);
    for (const type of [addressType, workloadType] as const) {
      const interest = this.#interests.get(type);
      if (interest) for (const name of change.names) this.#touchName(interest, name, atMs, touched);
    }
    for (const { scope, authorizations } of change.scoped) {
      for (const one of this.#interests.get(authorizationType)?.byScope.get(scope) ?? []) {
        for (const name of authorizations) one.touch(name, atMs);
        touched.add(one);
      }
    }
    for (const { waypoint, added, removed } of change.waypoints) {
      for (const type of [addressType, workloadType] as const) {
        for (const one of this.#interests.get(type)?.byScope.get(waypointScope(waypoint)) ?? []) {
          one.scopeChanged(added, removed, atMs);
          touched.add(one);
        }
      }
    }
    if (change.becameReady) for (const stream of this.#streams.keys()) stream.becameReady();
    const awake = change.becameReady ? new Set(this.#streams.keys()) : new Set<DeltaStream>();
    for (const one of touched) {
      const stream = this.#owners.get(one);
      if (stream) awake.add(stream);
    }
    for (const stream of awake) this.#streams.get(stream)?.();
  }

  #touchWanting(
    before: XdsResource | undefined,
    after: XdsResource | undefined,
    atMs: number,
    touched: Set<Subscription>,
  ): void {
    const resource = after ?? before;
    if (!resource) return;
    const keys = new Set([resource.name, ...(before?.services ?? []), ...(after?.services ?? [])]);
    const nodes = new Set([before?.node ?? "", after?.node ?? ""]);
    for (const type of typesOf(resource.kind)) {
      const interest = this.#interests.get(type);
      if (!interest) continue;
      const wanting = new Set(interest.wildcards);
      for (const key of keys) for (const one of interest.resolved.get(key) ?? []) wanting.add(one);
      if (type !== authorizationType)
        for (const node of nodes) for (const one of interest.byScope.get(node) ?? []) wanting.add(one);
      for (const one of wanting) {
        one.touch(resource.name, atMs);
        touched.add(one);
      }
    }
  }

  #touchNames(
    before: XdsResource | undefined,
    after: XdsResource | undefined,
    atMs: number,
    touched: Set<Subscription>,
  ): void {
    const resource = after ?? before;
    if (!resource) return;
    const names = new Set([resource.name, ...(before?.aliases ?? []), ...(after?.aliases ?? [])]);
    const ranges = [...(before?.ranges ?? []), ...(after?.ranges ?? [])];
    for (const type of typesOf(resource.kind)) {
      const interest = this.#interests.get(type);
      if (!interest) continue;
      for (const name of [...names, ...interest.namesWithin(ranges)])
        this.#touchName(interest, name, atMs, touched);
    }
  }

  #touchName(interest: Interest<Subscription>, name: string, atMs: number, touched: Set<Subscription>): void {
    for (const one of [...(interest.named.get(name) ?? [])]) {
      one.touchName(name, atMs);
      touched.add(one);
    }
  }
}

function typesOf(kind: "workload" | "service" | "authorization"): readonly TypeUrl[] {
  switch (kind) {
    case "authorization":
      return [authorizationType];
    case "service":
      return [addressType];
    case "workload":
      return [addressType, workloadType];
  }
}
