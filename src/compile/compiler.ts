/**
 * From batches of objects to what the nodes are told. Each object is a unit, compiled from the model
 * alone; a batch compiles the units it can affect and gives the difference.
 */
import type { PolicyKey, ServiceKey, WorkloadUid } from "../domain/ids.js";
import type { MeshKind, MeshObject } from "../domain/objects.js";
import type { SourceEvent } from "../domain/source-event.js";
import { Mesh } from "../model/mesh.js";
import { Affected, type UnitKey } from "./affected.js";
import type {
  CompiledAddress,
  CompiledAuthorization,
  CompiledChange,
  CompiledService,
  CompiledWorkload,
} from "./compiled.js";
import type { CompileConfig } from "./config.js";
import { equalValues } from "./equal.js";
import type { CompiledServed, CompiledWaypointConfig, WaypointConfigKind } from "./waypoint/config.js";
import { servedOf as servedAddress } from "./waypoint/served.js";
import { compileStaticStrict } from "./peer-authentication.js";
import { type Compiled, compileUnit } from "./unit.js";

type Owner = UnitKey | "strict";

const nothing: readonly Compiled[] = [];

/** Unique among what one object becomes. */
function nameOf(compiled: Compiled): string {
  switch (compiled.type) {
    case "workload":
      return compiled.uid;
    case "service":
    case "authorization":
      return compiled.key;
    case "waypoint_config":
      return `${compiled.kind} ${compiled.name}`;
  }
}

/** One object's say in what a service is. */
interface Claim {
  readonly owner: Owner;
  readonly service: CompiledService;
}

/** A change being put together. */
class Difference {
  readonly addresses: CompiledAddress[] = [];
  readonly removedAddresses: (WorkloadUid | ServiceKey)[] = [];
  readonly authorizations: CompiledAuthorization[] = [];
  readonly removedAuthorizations: PolicyKey[] = [];
  readonly configs: CompiledWaypointConfig[] = [];
  readonly removedConfigs: { kind: WaypointConfigKind; name: string }[] = [];

  /** One value in the place of another, either of them possibly none. */
  replace(before: Compiled | undefined, after: Compiled | undefined): void {
    if (after) this.#set(after);
    else if (before) this.#remove(before);
    const [servedBefore, servedAfter] = [servedOf(before), servedOf(after)];
    if (servedAfter && !equalValues(servedBefore, servedAfter)) this.#set(servedAfter);
    else if (servedBefore && !servedAfter) this.#remove(servedBefore);
  }

  #set(compiled: Compiled): void {
    switch (compiled.type) {
      case "authorization":
        this.authorizations.push(compiled);
        return;
      case "waypoint_config":
        this.configs.push(compiled);
        return;
      default:
        this.addresses.push(compiled);
    }
  }

  #remove(compiled: Compiled): void {
    switch (compiled.type) {
      case "authorization":
        this.removedAuthorizations.push(compiled.key);
        return;
      case "waypoint_config":
        this.removedConfigs.push({ kind: compiled.kind, name: compiled.name });
        return;
      case "workload":
        this.removedAddresses.push(compiled.uid);
        return;
      case "service":
        this.removedAddresses.push(compiled.key);
    }
  }
}

/** What a waypoint is told about a service or workload. */
function servedOf(compiled: Compiled | undefined): CompiledServed | undefined {
  return compiled?.type === "service" || compiled?.type === "workload" ? servedAddress(compiled) : undefined;
}

export class Compiler {
  readonly mesh = new Mesh();
  readonly config: CompileConfig;
  readonly #units = new Map<Owner, readonly Compiled[]>();
  /** Several objects may claim one service; everything else has a name that only its own object can have. */
  readonly #claims = new Map<ServiceKey, readonly Claim[]>();
  readonly #services = new Map<ServiceKey, CompiledService>();
  /** What the last workload of a service belonged to: its siblings share the value, which is nearly always the same. */
  readonly #siblings = new Map<ServiceKey, CompiledWorkload["services"]>();

  constructor(config: CompileConfig) {
    this.config = config;
  }

  /** Takes a batch. The answer has only what is different now. */
  apply(events: readonly SourceEvent[]): CompiledChange {
    const changes = this.mesh.apply(events);
    const affected = new Affected(this.mesh, this.config);
    for (const change of changes) affected.add(change);
    const difference = new Difference();
    const contested = new Set<ServiceKey>();
    let peers = false;
    for (const unit of affected.units) {
      peers ||= unit.startsWith("PeerAuthentication/");
      const object = this.#objectOf(unit);
      this.#replace(
        unit,
        object ? compileUnit(this.mesh, this.config, object) : nothing,
        difference,
        contested,
      );
    }
    if (peers) {
      const strict = compileStaticStrict(this.mesh, this.config);
      this.#replace("strict", strict ? [strict] : nothing, difference, contested);
    }
    this.#settle(contested, difference);
    return difference;
  }

  /** Everything in force. */
  *all(): Iterable<Compiled> {
    for (const unit of this.#units.values()) {
      for (const one of unit) {
        if (!this.isInForce(one)) continue;
        yield one;
        const served = servedOf(one);
        if (served) yield served;
      }
    }
  }

  /** What one object became, whether or not it is in force. */
  compiledFrom(object: MeshObject): readonly Compiled[] {
    return this.#units.get(`${object.kind}/${object.meta.namespace}/${object.meta.name}`) ?? nothing;
  }

  /** False for a service that another object's claim has taken. */
  isInForce(compiled: Compiled): boolean {
    return compiled.type !== "service" || this.#services.get(compiled.key) === compiled;
  }

  #objectOf(unit: UnitKey): MeshObject | undefined {
    const [kind = "", namespace = "", ...name] = unit.split("/");
    return this.mesh.get(kind as MeshKind, namespace, name.join("/"));
  }

  /** Replaces a unit's output, keeping the values that say the same as before. */
  #replace(
    owner: Owner,
    next: readonly Compiled[],
    difference: Difference,
    contested: Set<ServiceKey>,
  ): void {
    const before = this.#units.get(owner) ?? nothing;
    if (before.length === 0 && next.length === 0) return;
    const earlier = new Map(before.map((compiled) => [nameOf(compiled), compiled]));
    const kept = next.map((compiled) => {
      const name = nameOf(compiled);
      const old = earlier.get(name);
      earlier.delete(name);
      if (old && equalValues(old, compiled)) return old;
      const shared = this.#share(compiled);
      if (shared.type === "service") this.#claim(owner, shared.key, shared, contested);
      else difference.replace(old, shared);
      return shared;
    });
    for (const old of earlier.values()) {
      if (old.type === "service") this.#claim(owner, old.key, undefined, contested);
      else difference.replace(old, undefined);
    }
    if (kept.length > 0) this.#units.set(owner, kept);
    else this.#units.delete(owner);
  }

  #share(compiled: Compiled): Compiled {
    const [first] = compiled.type === "workload" ? compiled.services.keys() : [];
    if (compiled.type !== "workload" || first === undefined) return compiled;
    const services = this.#siblings.get(first);
    if (services && equalValues(services, compiled.services)) return { ...compiled, services };
    this.#siblings.set(first, compiled.services);
    return compiled;
  }

  #claim(
    owner: Owner,
    key: ServiceKey,
    service: CompiledService | undefined,
    contested: Set<ServiceKey>,
  ): void {
    const others = (this.#claims.get(key) ?? []).filter((claim) => claim.owner !== owner);
    const claims = service ? [...others, { owner, service }] : others;
    if (claims.length > 0) this.#claims.set(key, claims);
    else this.#claims.delete(key);
    contested.add(key);
  }

  #settle(contested: ReadonlySet<ServiceKey>, difference: Difference): void {
    for (const key of contested) {
      const before = this.#services.get(key);
      const after = winner(this.#claims.get(key) ?? []);
      if (before === after) continue;
      difference.replace(before, after);
      if (after) this.#services.set(key, after);
      else {
        this.#services.delete(key);
        this.#siblings.delete(key);
      }
    }
  }
}

/** A Service before a ServiceEntry that claims the same host, then by name. */
function winner(claims: readonly Claim[]): CompiledService | undefined {
  let best: Claim | undefined;
  for (const claim of claims) if (!best || precedes(claim.owner, best.owner)) best = claim;
  return best?.service;
}

function precedes(a: Owner, b: Owner): boolean {
  const rank = (owner: Owner): number => (owner.startsWith("ServiceEntry/") ? 1 : 0);
  return rank(a) === rank(b) ? a < b : rank(a) < rank(b);
}
