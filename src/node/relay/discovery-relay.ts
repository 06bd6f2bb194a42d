import { MeltemiError, messageOf } from "../../domain/error.js";
import { Node } from "../../gen/envoy/service/discovery/v3/ads.js";
import type { Clock } from "../../platform/clock.js";
import type { Logger } from "../../platform/logger.js";
import type { Random } from "../../platform/random.js";
import { DiscoveryClient, type DiscoveryConsumer, type Upstream } from "../../xds/client.js";
import type { DiscoveryUpdate, Rejection } from "../../xds/client-state.js";
import { RelayedResource } from "../../xds/relayed-resource.js";
import { addressType, authorizationType, workloadType, type TypeUrl } from "../../xds/resource.js";
import { ResourceCache } from "../../xds/resource-cache.js";
import type { Acknowledgement, DeltaResponse } from "../../xds/subscription.js";
import type { LastGoodFile } from "./last-good.js";
import { TakenState } from "./taken.js";

export interface DiscoveryRelayOptions {
  readonly node: string;
  readonly clusterId: string;
  readonly address: string;
  readonly upstream: () => Promise<Upstream>;
  readonly lastGood: LastGoodFile;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  /** How long the first answer of the control plane is waited for before the last good state is served without it. */
  readonly upstreamGraceMs: number;
  /** How long what nobody asks for any more is kept: a data plane that restarts asks again. */
  readonly lingerMs: number;
  /** Quiet time before the last good state is written. */
  readonly saveDelayMs: number;
}

export interface ControlPlaneStatus {
  readonly connected: boolean;
  readonly address: string;
  readonly sinceMs: number;
  readonly lastError: string | undefined;
}

/**
 * Discovery between the control plane and the node's data planes: a client above, a cache, and (through
 * `cache` as a ResourceSource) the server below.
 *
 * - A demand from below goes up once, whoever asks; the answer stays as long as it is asked for.
 * - A name without an answer is unknown, never absent: while the control plane is away a new demand waits.
 * - What came before (this run, or the last good state on disk) is served on meanwhile, negative answers
 *   of an earlier run only once it is clear that the control plane cannot be asked.
 */
export class DiscoveryRelay implements DiscoveryConsumer {
  readonly cache: ResourceCache;
  readonly #client: DiscoveryClient;
  readonly #negative = new Set<string>();
  /** Of an earlier run, not confirmed in this one. */
  #formerNegative = new Set<string>();
  readonly #unwanted = new Map<
    string,
    { readonly type: TypeUrl; readonly name: string; readonly untilMs: number }
  >();
  readonly #answered = new Set<TypeUrl>();
  readonly #taken = new TakenState();
  /** Which resource bytes on the way to a data plane are. */
  readonly #sent = new WeakMap<Buffer, RelayedResource>();
  #status: ControlPlaneStatus;
  #lastGoodMs: number | undefined;
  #saving: Promise<void> = Promise.resolve();
  #saveScheduled = false;

  constructor(private readonly options: DiscoveryRelayOptions) {
    const { node, clusterId, upstream, clock, random, log } = options;
    this.cache = new ResourceCache("explicit", (type, name, wanted) => this.#demand(type, name, wanted));
    this.#client = new DiscoveryClient({
      node: Node.fromPartial({
        id: `node~${node}`,
        userAgentName: "meltemi-node",
        metadata: { NODE_NAME: node, CLUSTER_ID: clusterId, MELTEMI_ON_DEMAND: "true" },
      }),
      upstream,
      consumer: this,
      clock,
      random,
      logger: log,
    });
    this.#client.state.watch(authorizationType, true);
    this.#client.state.watch(addressType, false);
    this.#status = { connected: false, address: options.address, sinceMs: clock.now(), lastError: undefined };
  }

  get status(): ControlPlaneStatus {
    return this.#status;
  }

  /** When the last good state that was loaded had been saved; undefined where there was none. */
  get lastGoodMs(): number | undefined {
    return this.#lastGoodMs;
  }

  /** Loads the last good state and stays connected until the signal aborts; what is unsaved is saved then. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, lingerMs, upstreamGraceMs } = this.options;
    await this.#load();
    const timers = { signal, background: true };
    clock.schedule(upstreamGraceMs, () => this.#serveWithoutUpstream(), timers);
    const forget = (): void => {
      this.#forget();
      clock.schedule(lingerMs, forget, timers);
    };
    clock.schedule(lingerMs, forget, timers);
    await this.#client.run(signal);
    await this.#saving;
    await this.#save();
  }

  connected(): void {
    this.#status = {
      ...this.#status,
      connected: true,
      sinceMs: this.options.clock.now(),
      lastError: undefined,
    };
    this.options.log.info("control plane connected", { address: this.options.address });
  }

  disconnected(error: MeltemiError): void {
    const { clock } = this.options;
    const sinceMs = this.#status.connected ? clock.now() : this.#status.sinceMs;
    this.#status = { ...this.#status, connected: false, sinceMs, lastError: error.message };
    this.#serveWithoutUpstream();
  }

  update({ type, resources, removed }: DiscoveryUpdate): readonly Rejection[] {
    const rejections: Rejection[] = [];
    if (type !== addressType && type !== authorizationType) return rejections;
    const upsert: RelayedResource[] = [];
    for (const resource of resources) {
      try {
        upsert.push(new RelayedResource(type, resource));
      } catch (error) {
        rejections.push({ name: resource.name, reason: messageOf(error) });
      }
    }
    const absent =
      type === addressType ? removed.filter((name) => this.#client.state.isSubscribed(type, name)) : [];
    for (const resource of upsert) this.#sent.set(resource.bytes, resource);
    for (const { name, aliases } of upsert)
      for (const known of [name, ...aliases]) this.#negative.delete(known);
    for (const name of absent) this.#negative.add(name);
    this.#answered.add(type);
    this.cache.apply(
      {
        upsert,
        removeAddresses: type === addressType ? removed : [],
        removeAuthorizations: type === authorizationType ? removed : [],
        absent,
      },
      // Policies come first and the addresses wait for them, so both are complete with the first addresses.
      this.#answered.has(addressType) && this.#answered.has(authorizationType),
    );
    return rejections;
  }

  /** A data plane has taken or refused what it was sent. */
  answered(response: DeltaResponse, answer: Acknowledgement): void {
    const type = response.type === authorizationType ? authorizationType : addressType;
    const resources = response.resources.flatMap((bytes) => this.#sent.get(bytes) ?? []);
    switch (answer.type) {
      case "none":
        return;
      case "ack":
        for (const resource of resources) this.#taken.take(resource);
        this.#taken.remove(type, response.removed, (name) => this.#negative.has(name));
        this.#scheduleSave();
        return;
      case "nack":
        this.#client.reject(type, answer.error);
        this.#restore(resources, answer.error);
    }
  }

  /** Serves on what a data plane had taken before in place of what it has refused: the next one is to start with that. */
  #restore(resources: readonly RelayedResource[], error: string): void {
    const refused = resources.length === 1 ? resources : resources.filter(({ name }) => error.includes(name));
    const upsert = refused.flatMap((resource) => {
      const former = this.#taken.former(resource);
      return former === undefined || former === resource ? [] : [former];
    });
    this.cache.apply({ upsert, removeAddresses: [], removeAuthorizations: [] }, false);
  }

  async #load(): Promise<void> {
    const { lastGood, log } = this.options;
    try {
      const state = await lastGood.load();
      if (state === undefined) return;
      for (const resource of state.resources) {
        this.#sent.set(resource.bytes, resource);
        this.#client.state.hold(resource.type, resource.name, resource.version(resource.type, "meltemi"));
        if (resource.type !== addressType) continue;
        // Asked for by name, or the control plane would take it back before the data plane asks again.
        this.#client.state.subscribe(addressType, resource.name);
        this.#linger(addressType, resource.name);
      }
      this.#formerNegative = new Set(state.negative);
      this.#taken.restore(state.resources, state.negative);
      this.cache.apply({ upsert: state.resources, removeAddresses: [], removeAuthorizations: [] }, false);
      this.#lastGoodMs = state.savedAtMs;
      log.info("last good state loaded", {
        resources: state.resources.length,
        negative: state.negative.length,
      });
    } catch (error) {
      const hint = error instanceof MeltemiError ? error.hint : undefined;
      log.error("last good state not loaded", { error: messageOf(error), hint });
    }
  }

  /** The control plane cannot be asked: what it said before is the best that is known. Without any, everything waits. */
  #serveWithoutUpstream(): void {
    if (this.#status.connected || this.#lastGoodMs === undefined) return;
    for (const name of this.#formerNegative) this.#negative.add(name);
    const absent = [...this.#formerNegative].filter((name) =>
      this.#client.state.isSubscribed(addressType, name),
    );
    this.#formerNegative.clear();
    this.cache.apply({ upsert: [], removeAddresses: [], removeAuthorizations: [], absent }, true);
  }

  #demand(type: TypeUrl, name: string, wanted: boolean): void {
    // Workloads alone (a type of its own below) are answered from the addresses.
    const asked = type === workloadType ? addressType : type;
    const key = `${asked} ${name}`;
    if (!wanted) {
      this.#linger(asked, name);
      return;
    }
    this.#unwanted.delete(key);
    this.#client.subscribe(asked, name);
    if (asked !== addressType || !this.#negative.has(name)) return;
    // After the caller, which is about to look the name up.
    queueMicrotask(() =>
      this.cache.apply({ upsert: [], removeAddresses: [], removeAuthorizations: [], absent: [name] }, false),
    );
  }

  /** Keeps a name asked for above for a while after the last one below has let go of it. */
  #linger(type: TypeUrl, name: string): void {
    const untilMs = this.options.clock.monotonic() + this.options.lingerMs;
    this.#unwanted.set(`${type} ${name}`, { type, name, untilMs });
  }

  /** Drops what nobody has asked for lately. Not while the control plane is away: it could not be asked for again. */
  #forget(): void {
    if (!this.#status.connected) return;
    const nowMs = this.options.clock.monotonic();
    const dropped: string[] = [];
    for (const [key, { type, name, untilMs }] of this.#unwanted) {
      if (untilMs > nowMs) continue;
      this.#unwanted.delete(key);
      // Policies are always wanted, by wildcard.
      if (type === authorizationType) continue;
      this.#client.unsubscribe(type, name);
      this.#negative.delete(name);
      this.#taken.forget(addressType, [name]);
      // The control plane takes back what came by another name; what has this very name we forget ourselves.
      if (this.cache.get(type, name) !== undefined && !this.#isWanted(name)) dropped.push(name);
    }
    if (dropped.length > 0)
      this.cache.apply({ upsert: [], removeAddresses: dropped, removeAuthorizations: [] }, false);
    this.#scheduleSave();
  }

  /** Whether a resource belongs here for another reason than its own name. */
  #isWanted(name: string): boolean {
    const resource = this.cache.get(addressType, name);
    if (resource === undefined) return false;
    if (resource.node === this.options.node) return true;
    const named = (names: readonly string[]): boolean =>
      names.some((one) => this.#client.state.isSubscribed(addressType, one));
    if (named(resource.aliases)) return true;
    return resource.services.some((service) =>
      named([service, ...(this.cache.get(addressType, service)?.aliases ?? [])]),
    );
  }

  #scheduleSave(): void {
    if (this.#saveScheduled) return;
    this.#saveScheduled = true;
    this.options.clock.schedule(this.options.saveDelayMs, () => void this.#save(), { background: true });
  }

  #save(): Promise<void> {
    if (!this.#saveScheduled) return this.#saving;
    this.#saveScheduled = false;
    this.#saving = this.#saving
      .then(() => this.options.lastGood.save(this.#taken.resources, this.#taken.negative))
      .catch((error: unknown) =>
        this.options.log.error("last good state not saved", { error: messageOf(error) }),
      );
    return this.#saving;
  }
}
