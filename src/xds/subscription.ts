/**
 * One type on one stream: what the client asked for, what it holds and what it has yet to be told.
 * Pure: requests and changes go in, the next response comes out of `next`.
 *
 *   idle -> started (first request) -> [source ready] -> filled
 *   filled: `next` gives a response -> awaiting its ACK or NACK -> `next` again
 *
 * While a response is unanswered, changes collect as names only: a slow client costs one set of
 * names, and gets the newest content when it is ready for it.
 */
import { MeltemiError } from "../domain/error.js";
import type { Interest } from "./interest.js";
import { scopeOf } from "./policy-scope.js";
import type { ConfigType } from "./waypoint/config-type.js";
import {
  authorizationType,
  type DiscoveryClient,
  type ResourceSource,
  type TypeUrl,
  type XdsResource,
} from "./resource.js";

export interface DeltaRequest {
  readonly subscribe: readonly string[];
  readonly unsubscribe: readonly string[];
  readonly initialVersions: ReadonlyMap<string, string>;
  readonly nonce: string;
  /** Set on a NACK: the client's words. */
  readonly error: string | undefined;
}

export interface DeltaResponse {
  readonly type: TypeUrl | ConfigType;
  readonly nonce: string;
  /** Serialized `Resource` messages, shared between streams. */
  readonly resources: readonly Buffer[];
  readonly removed: readonly string[];
  /** When the oldest change in it came in (as given to `touch`); undefined for answers to requests. */
  readonly changedAtMs: number | undefined;
}

export type Acknowledgement =
  { readonly type: "none" } | { readonly type: "ack" } | { readonly type: "nack"; readonly error: string };

/** Bytes of resources and names in one response: below gRPC's usual receive limit of 4 MiB. */
const responseBytes = 3_500_000;
/** Names one client may ask for, and their length: what an authenticated but broken client can cost. */
const maxNames = 500_000;
const maxNameLength = 1_024;

/** Undefined: not known yet. Null: answered negatively. Else the resource it stands for. */
type Resolution = string | null | undefined;

export class Subscription {
  readonly type: TypeUrl;
  readonly #client: DiscoveryClient;
  readonly #source: ResourceSource;
  readonly #interest: Interest<Subscription>;
  readonly #names = new Map<string, Resolution>();
  /** Resources that asked names stand for, with how many names do. */
  readonly #resolved = new Map<string, number>();
  /** What the client holds, with versions; undefined for a filled wildcard, which holds everything. */
  #held: Map<string, string> | undefined = new Map();
  /** Resources to look at again before the next response. */
  readonly #pending = new Set<string>();
  /** Those of `#pending` that are to be sent even if the client holds them: it asked. */
  readonly #forced = new Set<string>();
  readonly #negative = new Set<string>();
  #wildcard = false;
  /** A waypoint's `*`: the names that the source says concern it. Those of `#names` that it did not ask for itself. */
  #scope: Set<string> | undefined;
  /** Those of `#scope` that no longer concern it, until `release`. */
  readonly #leaving = new Set<string>();
  #started = false;
  #filled = false;
  #owesResponse = false;
  #unacknowledged: string | undefined;
  #changedAtMs: number | undefined;
  #nonces = 0;

  constructor(
    type: TypeUrl,
    client: DiscoveryClient,
    source: ResourceSource,
    interest: Interest<Subscription>,
  ) {
    this.type = type;
    this.#client = client;
    this.#source = source;
    this.#interest = interest;
  }

  get info(): {
    readonly wildcard: boolean;
    readonly names: number;
    readonly held: number | undefined;
    readonly pending: number;
  } {
    return {
      wildcard: this.#wildcard,
      names: this.#names.size,
      held: this.#held?.size,
      pending: this.#pending.size,
    };
  }

  /** Whether changes wait for the client's answer to the last response. */
  get blocked(): boolean {
    return this.#unacknowledged !== undefined && this.#hasNews;
  }

  asks(name: string): boolean {
    return this.#names.has(name);
  }

  /** Takes a request. Throws `bad_input` where it exceeds what one client may ask for. */
  request(request: DeltaRequest): Acknowledgement {
    const acknowledgement = this.#acknowledge(request);
    const first = !this.#started;
    if (first) this.#start(request);
    for (const name of request.subscribe) {
      if (name === "*") this.#subscribeAll();
      else this.#ask(name, !(first && request.initialVersions.get(name)));
    }
    for (const name of request.unsubscribe) {
      if (name === "*") this.#unsubscribeAll();
      else this.#unask(name);
    }
    if (first && this.#source.ready) this.#fill();
    return acknowledgement;
  }

  /** Ends the subscription: leaves all indexes. */
  close(): void {
    if (this.#wildcard) this.#leaveWildcards();
    for (const name of this.#names.keys()) this.#unindexName(name);
    for (const name of this.#resolved.keys()) this.#interest.resolved.delete(name, this);
    this.#interest.byScope.delete(scopeOf(this.#client), this);
  }

  /** The source has its first complete state. */
  becameReady(): void {
    if (this.#started && !this.#filled) this.#fill();
  }

  /** A resource that may concern this client has changed, or its scope has. */
  touch(name: string, atMs: number): void {
    this.#pending.add(name);
    this.#changedAtMs ??= atMs;
  }

  /** What an asked name stands for may have changed. */
  touchName(name: string, atMs: number): void {
    this.#resolve(name, false);
    if (this.#hasNews) this.#changedAtMs ??= atMs;
  }

  /** What concerns the waypoint that asks has changed. What leaves stays until `release`. */
  scopeChanged(added: readonly string[], removed: readonly string[], atMs: number): void {
    if (!this.#scope) return;
    for (const name of removed) if (this.#scope.has(name)) this.#leaving.add(name);
    for (const name of added) this.#scoped(name);
    if (this.#hasNews) this.#changedAtMs ??= atMs;
  }

  /** Lets go of what left the scope: to be called once nothing that the client was told leads there any more. */
  release(): void {
    for (const name of this.#leaving) if (this.#scope?.delete(name)) this.#drop(name, true);
    this.#leaving.clear();
  }

  /** The next response, if there is something to tell and the client has answered the last one. */
  next(): DeltaResponse | undefined {
    if (!this.#filled || this.#unacknowledged !== undefined || !this.#hasNews) return undefined;
    const resources: Buffer[] = [];
    const removed = new Set<string>();
    let bytes = 0;
    for (const name of this.#negative) {
      if (bytes >= responseBytes) break;
      this.#negative.delete(name);
      removed.add(name);
      bytes += name.length + 8;
    }
    for (const name of this.#pending) {
      if (bytes >= responseBytes) break;
      const encoded = this.#evaluate(name, removed);
      if (encoded && bytes > 0 && bytes + encoded.length > responseBytes) {
        // It did not fit: the next response begins with it.
        this.#forced.add(name);
        break;
      }
      this.#pending.delete(name);
      this.#forced.delete(name);
      if (encoded) resources.push(encoded);
      bytes += (encoded?.length ?? 0) + 8;
    }
    const changedAtMs = this.#changedAtMs;
    if (this.#pending.size === 0) {
      this.#changedAtMs = undefined;
      if (this.#wildcard && this.type !== authorizationType) this.#held = undefined;
    }
    if (resources.length === 0 && removed.size === 0 && !this.#owesResponse) return undefined;
    this.#owesResponse = false;
    this.#nonces += 1;
    const nonce = this.#nonces.toString(36);
    this.#unacknowledged = nonce;
    return { type: this.type, nonce, resources, removed: [...removed], changedAtMs };
  }

  get #hasNews(): boolean {
    return this.#owesResponse || this.#pending.size > 0 || this.#negative.size > 0;
  }

  /** The bytes to send for a pending name; notes a removal; undefined when there is nothing to send. */
  #evaluate(name: string, removed: Set<string>): Buffer | undefined {
    const resource = this.#source.get(this.type, name);
    // Asked for and not known yet (a relay): what the client holds stays until there is an answer.
    if (!resource && this.#names.has(name) && this.#names.get(name) === undefined) return undefined;
    const encoded =
      resource && this.#wants(resource) ? resource.encoded(this.type, this.#client.dialect) : undefined;
    if (!resource || !encoded) {
      if (this.#held ? this.#held.delete(name) : true) removed.add(name);
      return undefined;
    }
    const version = resource.version(this.type, this.#client.dialect);
    if (!this.#forced.has(name) && this.#held?.get(name) === version) return undefined;
    this.#held?.set(name, version);
    return encoded;
  }

  #wants(resource: XdsResource): boolean {
    if (this.#resolved.has(resource.name)) return true;
    if (this.type === authorizationType) return this.#wildcard && this.#inScope(resource);
    if (this.#wildcard) return true;
    if (resource.kind !== "workload") return false;
    if (resource.node !== "" && resource.node === this.#client.node) return true;
    return resource.services.some((service) => this.#resolved.has(service));
  }

  /**
   * A waypoint goes on being told of a policy that it has, while that exists: an endpoint that is about to leave
   * its scope must not be judged by fewer.
   */
  #inScope(authorization: XdsResource): boolean {
    if (this.#source.inScope(this.#client, authorization)) return true;
    return this.#client.waypoint !== undefined && (this.#held?.has(authorization.name) ?? false);
  }

  #acknowledge(request: DeltaRequest): Acknowledgement {
    if (request.nonce === "" || request.nonce !== this.#unacknowledged) {
      // A relay takes a response at once; its own client may refuse it later.
      return request.error === undefined ? { type: "none" } : { type: "nack", error: request.error };
    }
    this.#unacknowledged = undefined;
    return request.error === undefined ? { type: "ack" } : { type: "nack", error: request.error };
  }

  #start(request: DeltaRequest): void {
    this.#started = true;
    this.#owesResponse = true;
    const held = request.initialVersions;
    for (const [name, version] of held) if (version !== "") this.#held?.set(name, version);
    const scope = scopeOf(this.#client);
    if (scope !== "") this.#interest.byScope.add(scope, this);
    const unsubscribesAll = request.unsubscribe.includes("*");
    if (request.subscribe.length === 0 && !unsubscribesAll) this.#subscribeAll();
    // Ambient's way to ask for nothing in particular: what it lists as held is what it asks for.
    if (request.subscribe.includes("*") && unsubscribesAll)
      for (const name of held.keys()) this.#ask(name, false);
  }

  /** Everything that the first request asked for, once the source can tell. */
  #fill(): void {
    this.#filled = true;
    for (const name of this.#names.keys()) this.#resolve(name, false);
    for (const name of this.#held?.keys() ?? []) this.#pending.add(name);
    if (this.#wildcard) this.#addAll(this.#source.names(this.type));
    else if (this.type !== authorizationType) this.#addAll(this.#source.onNode(this.#client.node));
  }

  #addAll(names: Iterable<string>): void {
    for (const name of names) this.#pending.add(name);
  }

  #subscribeAll(): void {
    if (this.#wildcard || this.#scope) return;
    const { waypoint } = this.#client;
    if (waypoint !== undefined && this.type !== authorizationType) {
      this.#scope = new Set();
      for (const name of this.#source.namedTo(waypoint)) this.#scoped(name);
      return;
    }
    this.#wildcard = true;
    this.#interest.wildcards.add(this);
    if (this.#interest.wildcards.size === 1) this.#source.demand(this.type, "*", true);
    if (this.#filled) this.#addAll(this.#source.names(this.type));
  }

  #scoped(name: string): void {
    this.#leaving.delete(name);
    if (this.#names.has(name)) return;
    this.#scope?.add(name);
    this.#subscribe(name, false);
  }

  #unsubscribeAll(): void {
    if (this.#scope) {
      for (const name of this.#scope) this.#leaving.add(name);
      this.release();
      this.#scope = undefined;
    }
    if (!this.#wildcard) return;
    this.#wildcard = false;
    this.#leaveWildcards();
    if (!this.#filled) return;
    // A client that leaves the wildcard keeps only what it named.
    this.#held = new Map();
    this.#pending.clear();
    for (const name of this.#resolved.keys()) this.#answer(name);
    if (this.type !== authorizationType) this.#addAll(this.#source.onNode(this.#client.node));
  }

  #leaveWildcards(): void {
    this.#interest.wildcards.delete(this);
    if (this.#interest.wildcards.size === 0) this.#source.demand(this.type, "*", false);
  }

  /** The client asks for a name itself. */
  #ask(name: string, mustAnswer: boolean): void {
    this.#scope?.delete(name);
    this.#subscribe(name, mustAnswer);
  }

  #unask(name: string): void {
    const { waypoint } = this.#client;
    if (this.#scope && waypoint !== undefined && this.#names.has(name)) {
      const concerns = [...this.#source.namedTo(waypoint)].includes(name);
      if (concerns) return void this.#scope.add(name);
    }
    this.#drop(name, false);
  }

  #subscribe(name: string, mustAnswer: boolean): void {
    const known = this.#names.has(name);
    if (!known) {
      if (this.#names.size >= maxNames || name.length > maxNameLength) {
        throw new MeltemiError(
          "bad_input",
          `the client asks for more than ${maxNames} names, or for one longer than ${maxNameLength}`,
        );
      }
      this.#names.set(name, undefined);
      if (this.#interest.named.add(name, this)) this.#source.demand(this.type, name, true);
    }
    if (this.#source.ready) this.#resolve(name, mustAnswer);
  }

  /** `tell`: the client did not unsubscribe it, and has to be told that it is gone. */
  #drop(name: string, tell: boolean): void {
    if (!this.#names.has(name)) return;
    const resolution = this.#names.get(name);
    this.#names.delete(name);
    this.#negative.delete(name);
    this.#unindexName(name);
    if (typeof resolution !== "string") return;
    this.#release(resolution);
    if (tell) return;
    // The client forgets what it unsubscribes by itself; only what came along has to be taken back.
    const resource = this.#source.get(this.type, resolution);
    if (resolution === name && !(resource && this.#wants(resource))) {
      this.#held?.delete(name);
      this.#pending.delete(name);
      this.#forced.delete(name);
    }
  }

  #unindexName(name: string): void {
    if (this.#interest.named.delete(name, this)) this.#source.demand(this.type, name, false);
  }

  #resolve(name: string, mustAnswer: boolean): void {
    if (!this.#names.has(name)) return;
    const before = this.#names.get(name);
    const lookup = this.#source.lookup(this.type, name);
    const after =
      lookup.state === "found" ? lookup.resource.name : lookup.state === "absent" ? null : undefined;
    const changed = after !== before;
    if (changed) {
      this.#names.set(name, after);
      if (typeof after === "string") this.#retain(after);
      if (typeof before === "string") this.#release(before);
    }
    if (typeof after !== "string") {
      if (after === null && (changed || mustAnswer)) this.#negative.add(name);
      return;
    }
    this.#negative.delete(name);
    // An answer to a demand is explicit, unless the client said with which version it holds that very name.
    if (mustAnswer || (changed && (name !== after || !this.#held?.has(name)))) this.#answer(after);
  }

  #answer(resource: string): void {
    this.#pending.add(resource);
    this.#forced.add(resource);
  }

  #retain(resource: string): void {
    const count = this.#resolved.get(resource) ?? 0;
    this.#resolved.set(resource, count + 1);
    if (count > 0) return;
    this.#interest.resolved.add(resource, this);
    this.#pending.add(resource);
    this.#addAll(this.#source.dependents(resource));
  }

  #release(resource: string): void {
    const count = this.#resolved.get(resource) ?? 0;
    if (count > 1) {
      this.#resolved.set(resource, count - 1);
      return;
    }
    this.#resolved.delete(resource);
    this.#interest.resolved.delete(resource, this);
    this.#pending.add(resource);
    this.#addAll(this.#source.dependents(resource));
  }
}
