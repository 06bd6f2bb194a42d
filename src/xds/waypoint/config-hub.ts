/**
 * Configuration for waypoints over delta discovery. Unlike ambient's types it is told whole: a waypoint
 * subscribes to a type with `*` and is sent what names it, and nothing of another's. Pure, as delta-stream.ts.
 */
import type { CompiledChange } from "../../compile/compiled.js";
import type { CompiledWaypointConfig } from "../../compile/waypoint/config.js";
import { MeltemiError } from "../../domain/error.js";
import { encodeResource, type EncodedResource } from "../encode/resource.js";
import type { Acknowledgement, DeltaRequest, DeltaResponse } from "../subscription.js";
import { type ConfigType, configTypeOf, configTypes } from "./config-type.js";
import { encodeConfig } from "./encode.js";

/** What decides who may; keys before the rules that need them. */
const guards: readonly ConfigType[] = [
  configTypeOf.key_set,
  configTypeOf.request_authentication,
  configTypeOf.request_policy,
];

/** Bytes of resources and names in one response: below gRPC's usual receive limit of 4 MiB. */
const responseBytes = 3_500_000;

/** A compiled value, encoded when first asked for. */
class ConfigResource {
  #encoded: EncodedResource | undefined;

  constructor(readonly compiled: CompiledWaypointConfig) {}

  encoded(): EncodedResource {
    const { kind, name } = this.compiled;
    this.#encoded ??= encodeResource(configTypeOf[kind], name, [], encodeConfig(this.compiled));
    return this.#encoded;
  }

  isFor(waypoint: string): boolean {
    return this.compiled.waypoints.includes(waypoint);
  }
}

type Shelf = ReadonlyMap<string, ConfigResource>;

/** One type on one stream. */
class ConfigSubscription {
  readonly #held = new Map<string, string>();
  readonly #pending = new Set<string>();
  #owesResponse = false;
  #unacknowledged: string | undefined;
  #changedAtMs: number | undefined;
  #nonces = 0;
  #started = false;

  constructor(
    readonly type: ConfigType,
    private readonly waypoint: string,
    private readonly shelf: Shelf,
    private readonly isReady: () => boolean,
  ) {}

  request(request: DeltaRequest): Acknowledgement {
    const named = [...request.subscribe, ...request.unsubscribe].find((name) => name !== "*");
    if (named !== undefined) {
      throw new MeltemiError(
        "bad_input",
        `${this.type} is told whole, and not by names such as "${named.slice(0, 100)}"`,
        {
          hint: "subscribe to *",
        },
      );
    }
    if (!this.#started) {
      this.#started = true;
      this.#owesResponse = true;
      for (const [name, version] of request.initialVersions) this.#held.set(name, version);
      for (const name of [...this.#held.keys(), ...this.shelf.keys()]) this.#pending.add(name);
    }
    if (request.nonce !== "" && request.nonce === this.#unacknowledged) {
      this.#unacknowledged = undefined;
      return request.error === undefined ? { type: "ack" } : { type: "nack", error: request.error };
    }
    return request.error === undefined ? { type: "none" } : { type: "nack", error: request.error };
  }

  /** Whether the client has taken all that there is. */
  get settled(): boolean {
    return this.#unacknowledged === undefined && this.#pending.size === 0;
  }

  /** Whether the client has taken all that there is for it; it may still hold what is to be taken back. */
  get told(): boolean {
    return this.#unacknowledged === undefined && !this.#hasNews;
  }

  /** Whether there is something for the client, which has yet to answer what it was told last. */
  get blocked(): boolean {
    return this.#unacknowledged !== undefined && this.#hasNews;
  }

  get #hasNews(): boolean {
    for (const name of this.#pending) if (this.shelf.get(name)?.isFor(this.waypoint)) return true;
    return false;
  }

  touch(name: string, atMs: number): void {
    if (!this.#started) return;
    this.#pending.add(name);
    this.#changedAtMs ??= atMs;
  }

  /** Without `takeBack`, what is no longer for the client stays with it, and pending. */
  next(takeBack: boolean): DeltaResponse | undefined {
    if (!this.#started || this.#unacknowledged !== undefined || !this.isReady()) return undefined;
    const resources: Buffer[] = [];
    const removed: string[] = [];
    let bytes = 0;
    for (const name of this.#pending) {
      if (bytes >= responseBytes) break;
      const resource = this.shelf.get(name);
      if (!resource?.isFor(this.waypoint)) {
        if (!takeBack && this.#held.has(name)) continue;
        this.#pending.delete(name);
        if (this.#held.delete(name)) removed.push(name);
        continue;
      }
      this.#pending.delete(name);
      const encoded = resource.encoded();
      if (this.#held.get(name) === encoded.version) continue;
      if (bytes > 0 && bytes + encoded.bytes.length > responseBytes) {
        this.#pending.add(name);
        break;
      }
      this.#held.set(name, encoded.version);
      resources.push(encoded.bytes);
      bytes += encoded.bytes.length + name.length;
    }
    const changedAtMs = this.#changedAtMs;
    if (this.#pending.size === 0) this.#changedAtMs = undefined;
    if (resources.length === 0 && removed.length === 0 && !this.#owesResponse) return undefined;
    this.#owesResponse = false;
    this.#nonces += 1;
    this.#unacknowledged = this.#nonces.toString(36);
    return { type: this.type, nonce: this.#unacknowledged, resources, removed, changedAtMs };
  }
}

/** The waypoint types on one stream. */
export class ConfigStream {
  readonly #subscriptions: ReadonlyMap<ConfigType, ConfigSubscription>;

  constructor(waypoint: string, shelves: ReadonlyMap<ConfigType, Shelf>, isReady: () => boolean) {
    this.#subscriptions = new Map(
      configTypes.map((type) => [
        type,
        new ConfigSubscription(type, waypoint, shelves.get(type) ?? new Map(), isReady),
      ]),
    );
  }

  request(type: ConfigType, request: DeltaRequest): Acknowledgement {
    return this.#subscriptions.get(type)?.request(request) ?? { type: "none" };
  }

  touch(type: ConfigType, name: string, atMs: number): void {
    this.#subscriptions.get(type)?.touch(name, atMs);
  }

  /** Policies alone: they go before the addresses that they may guard, and none is taken back. */
  nextPolicies(): DeltaResponse | undefined {
    for (const type of guards) {
      const response = this.#subscriptions.get(type)?.next(false);
      if (response) return response;
    }
    return undefined;
  }

  /** Whether the client has taken all that there is, but for policies that are to be taken back. */
  get settled(): boolean {
    return [...this.#subscriptions].every(([type, subscription]) =>
      guards.includes(type) ? subscription.told : subscription.settled,
    );
  }

  /** What is served waits for newer policies: nothing is let through that they are about to refuse. */
  next(): DeltaResponse | undefined {
    for (const [type, subscription] of this.#subscriptions) {
      const isGuard = guards.includes(type);
      const response = subscription.next(!isGuard);
      if (response) return response;
      if (isGuard && subscription.blocked) return undefined;
    }
    return undefined;
  }

  /**
   * Policies that are no longer the client's: to be asked for when nothing else is left to tell, so that what they
   * guarded is gone first. Rules go before the keys that they need.
   */
  nextTakenBack(): DeltaResponse | undefined {
    if (!this.settled) return undefined;
    for (const type of [...guards].reverse()) {
      const subscription = this.#subscriptions.get(type);
      const response = subscription?.next(true);
      if (response) return response;
      if (subscription && !subscription.settled) return undefined;
    }
    return undefined;
  }
}

/** All configuration of all waypoints, and the streams that are told. */
export class ConfigHub {
  readonly #shelves: ReadonlyMap<ConfigType, Map<string, ConfigResource>> = new Map(
    configTypes.map((type) => [type, new Map<string, ConfigResource>()]),
  );
  readonly #streams = new Map<ConfigStream, { readonly waypoint: string; readonly wake: () => void }>();
  /** Until there is something to tell, nothing is: a client that held something would drop it. */
  #ready = false;

  /** `nowMs`: a monotonic clock in milliseconds. */
  constructor(private readonly nowMs: () => number) {}

  open(waypoint: string, wake: () => void): ConfigStream {
    const stream = new ConfigStream(waypoint, this.#shelves, () => this.#ready);
    this.#streams.set(stream, { waypoint, wake });
    return stream;
  }

  close(stream: ConfigStream): void {
    this.#streams.delete(stream);
  }

  /**
   * Applies one compiled batch; the first one is the complete first state. The answer wakes the streams whose
   * waypoint it concerns, each once: to be called when the addresses of the same batch are there to be told, too.
   */
  applyChange(change: Pick<CompiledChange, "configs" | "removedConfigs">): () => void {
    const concerned = new Map<string, { type: ConfigType; name: string }[]>();
    const note = (resource: ConfigResource | undefined, type: ConfigType, name: string): void => {
      for (const waypoint of resource?.compiled.waypoints ?? []) {
        const list = concerned.get(waypoint);
        if (list) list.push({ type, name });
        else concerned.set(waypoint, [{ type, name }]);
      }
    };
    for (const compiled of change.configs) {
      const type = configTypeOf[compiled.kind];
      const shelf = this.#shelves.get(type);
      const resource = new ConfigResource(compiled);
      note(shelf?.get(compiled.name), type, compiled.name);
      note(resource, type, compiled.name);
      shelf?.set(compiled.name, resource);
    }
    for (const { kind, name } of change.removedConfigs) {
      const type = configTypeOf[kind];
      const shelf = this.#shelves.get(type);
      note(shelf?.get(name), type, name);
      shelf?.delete(name);
    }
    const becameReady = !this.#ready;
    this.#ready = true;
    const awake: (() => void)[] = [];
    const atMs = this.nowMs();
    for (const [stream, { waypoint, wake }] of this.#streams) {
      const touched = concerned.get(waypoint) ?? [];
      for (const { type, name } of touched) stream.touch(type, name, atMs);
      if (touched.length > 0 || becameReady) awake.push(wake);
    }
    return () => {
      for (const wake of awake) wake();
    };
  }
}
