/**
 * The client's side of delta discovery as a pure state machine: what is wanted, what is held, and the
 * requests that follow from it. It outlives its streams: a new stream begins with what is held.
 */
import {
  DeltaDiscoveryRequest,
  type DeltaDiscoveryResponse,
  type Node,
  type Resource,
} from "../gen/envoy/service/discovery/v3/ads.js";
import type { TypeUrl } from "./resource.js";

/** A resource that the consumer could not take. */
export interface Rejection {
  readonly name: string;
  readonly reason: string;
}

export interface DiscoveryUpdate {
  readonly type: TypeUrl;
  readonly resources: readonly Resource[];
  readonly removed: readonly string[];
}

interface Watch {
  wildcard: boolean;
  readonly names: Set<string>;
  /** Name to version of everything accepted and not removed. */
  readonly held: Map<string, string>;
  readonly subscribe: Set<string>;
  readonly unsubscribe: Set<string>;
  opened: boolean;
}

export class DiscoveryClientState {
  readonly #node: Node;
  readonly #watches = new Map<TypeUrl, Watch>();
  #nodeSent = false;

  constructor(node: Node) {
    this.#node = node;
  }

  /** Begins to watch a type: everything (`*`), or only what `subscribe` names. */
  watch(type: TypeUrl, wildcard: boolean): void {
    if (this.#watches.has(type)) return;
    const sets = { names: new Set<string>(), held: new Map<string, string>(), subscribe: new Set<string>() };
    this.#watches.set(type, { wildcard, ...sets, unsubscribe: new Set(), opened: false });
  }

  /** `*` asks for everything. */
  subscribe(type: TypeUrl, name: string): void {
    this.watch(type, false);
    const watch = this.#watches.get(type);
    if (!watch || (name === "*" ? watch.wildcard : watch.names.has(name))) return;
    if (name === "*") watch.wildcard = true;
    else watch.names.add(name);
    watch.unsubscribe.delete(name);
    watch.subscribe.add(name);
  }

  unsubscribe(type: TypeUrl, name: string): void {
    const watch = this.#watches.get(type);
    if (!watch) return;
    if (name === "*" ? !watch.wildcard : !watch.names.delete(name)) return;
    if (name === "*") watch.wildcard = false;
    watch.held.delete(name);
    watch.subscribe.delete(name);
    watch.unsubscribe.add(name);
  }

  isSubscribed(type: TypeUrl, name: string): boolean {
    return this.#watches.get(type)?.names.has(name) ?? false;
  }

  /** What is already held when the process starts (a last good state). */
  hold(type: TypeUrl, name: string, version: string): void {
    this.watch(type, false);
    this.#watches.get(type)?.held.set(name, version);
  }

  /** The stream ended: the next one begins anew. */
  closed(): void {
    this.#nodeSent = false;
    for (const watch of this.#watches.values()) watch.opened = false;
  }

  /** Requests that say what changed since the last call; on a new stream, everything. */
  takeRequests(): DeltaDiscoveryRequest[] {
    const requests: DeltaDiscoveryRequest[] = [];
    for (const [type, watch] of this.#watches) {
      const request = watch.opened ? this.#changes(type, watch) : this.#first(type, watch);
      if (request) requests.push(request);
      watch.opened = true;
      watch.subscribe.clear();
      watch.unsubscribe.clear();
    }
    return requests;
  }

  /** Notes what the consumer made of a response, and answers it: ACK without rejections, else NACK. */
  answer(
    type: TypeUrl,
    response: DeltaDiscoveryResponse,
    rejections: readonly Rejection[],
  ): DeltaDiscoveryRequest {
    const rejected = new Set(rejections.map(({ name }) => name));
    const watch = this.#watches.get(type);
    for (const { name, version } of response.resources)
      if (!rejected.has(name)) watch?.held.set(name, version);
    for (const name of response.removedResources) watch?.held.delete(name);
    const message = rejections.map(({ name, reason }) => `${name}: ${reason}`).join("; ");
    return DeltaDiscoveryRequest.fromPartial({
      typeUrl: type,
      responseNonce: response.nonce,
      // 3: INVALID_ARGUMENT
      ...(rejections.length > 0 && { errorDetail: { code: 3, message } }),
    });
  }

  #first(type: TypeUrl, watch: Watch): DeltaDiscoveryRequest {
    const node = this.#nodeSent ? {} : { node: this.#node };
    this.#nodeSent = true;
    return DeltaDiscoveryRequest.fromPartial({
      ...node,
      typeUrl: type,
      resourceNamesSubscribe: watch.wildcard ? ["*", ...watch.names] : [...watch.names],
      resourceNamesUnsubscribe: watch.wildcard ? [] : ["*"],
      initialResourceVersions: Object.fromEntries(watch.held),
    });
  }

  #changes(type: TypeUrl, watch: Watch): DeltaDiscoveryRequest | undefined {
    if (watch.subscribe.size === 0 && watch.unsubscribe.size === 0) return undefined;
    return DeltaDiscoveryRequest.fromPartial({
      typeUrl: type,
      resourceNamesSubscribe: [...watch.subscribe],
      resourceNamesUnsubscribe: [...watch.unsubscribe],
    });
  }
}
