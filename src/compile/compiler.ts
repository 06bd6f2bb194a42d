/**
 * From batches of objects to what the nodes are told. Each object is a unit, compiled from the model
 * alone; a batch compiles the units it can affect and gives the difference.
 */
import type { PolicyKey, ServiceKey, WorkloadUid } from "../domain/ids.js";
import type { MeshKind, MeshObject } from "../domain/objects.js";
import type { SourceEvent } from "../domain/source-event.js";
import { Mesh } from "../model/mesh.js";
import { Affected, type UnitKey } from "./affected.js";
import type { CompiledAddress, CompiledAuthorization, CompiledChange } from "./compiled.js";
import type { CompileConfig } from "./config.js";
import { equalValues } from "./equal.js";
import { compileStaticStrict } from "./peer-authentication.js";
import { type Compiled, compileUnit } from "./unit.js";

type Owner = UnitKey | "strict";

const nothing: readonly Compiled[] = [];

/** What a compiled value is known by; addresses and authorizations are named apart. */
function slotOf(compiled: Compiled): string {
  switch (compiled.type) {
    case "workload":
      return `a:${compiled.uid}`;
    case "service":
      return `a:${compiled.key}`;
    case "authorization":
      return `p:${compiled.key}`;
  }
}

interface Claim {
  readonly owner: Owner;
  readonly compiled: Compiled;
}

/** What is known by one name: nearly always one claim, which is then in force. */
interface Slot {
  claims: readonly Claim[];
  inForce: Compiled | undefined;
}

export class Compiler {
  readonly mesh = new Mesh();
  readonly config: CompileConfig;
  readonly #units = new Map<Owner, readonly Compiled[]>();
  readonly #slots = new Map<string, Slot>();

  constructor(config: CompileConfig) {
    this.config = config;
  }

  /** Takes a batch. The answer has only what is different now. */
  apply(events: readonly SourceEvent[]): CompiledChange {
    const changes = this.mesh.apply(events);
    const affected = new Affected(this.mesh, this.config);
    for (const change of changes) affected.add(change);
    const slots = new Set<string>();
    let peers = false;
    for (const unit of affected.units) {
      peers ||= unit.startsWith("PeerAuthentication/");
      const object = this.#objectOf(unit);
      this.#replace(unit, object ? compileUnit(this.mesh, this.config, object) : nothing, slots);
    }
    if (peers) {
      const strict = compileStaticStrict(this.mesh, this.config);
      this.#replace("strict", strict ? [strict] : nothing, slots);
    }
    return this.#settle(slots);
  }

  /** Everything in force. */
  *all(): Iterable<Compiled> {
    for (const { inForce } of this.#slots.values()) if (inForce) yield inForce;
  }

  /** What one object became, whether or not it is in force. */
  compiledFrom(object: MeshObject): readonly Compiled[] {
    return this.#units.get(`${object.kind}/${object.meta.namespace}/${object.meta.name}`) ?? nothing;
  }

  /** The unit whose claim is in force for what this value is known by. */
  isInForce(compiled: Compiled): boolean {
    return this.#slots.get(slotOf(compiled))?.inForce === compiled;
  }

  #objectOf(unit: UnitKey): MeshObject | undefined {
    const [kind = "", namespace = "", ...name] = unit.split("/");
    return this.mesh.get(kind as MeshKind, namespace, name.join("/"));
  }

  /** Replaces a unit's output, keeping the values that say the same as before. */
  #replace(owner: Owner, next: readonly Compiled[], slots: Set<string>): void {
    const before = this.#units.get(owner) ?? nothing;
    if (before.length === 0 && next.length === 0) return;
    const earlier = new Map(before.map((compiled) => [slotOf(compiled), compiled]));
    const kept = next.map((compiled) => {
      const slot = slotOf(compiled);
      const old = earlier.get(slot);
      earlier.delete(slot);
      if (old && equalValues(old, compiled)) return old;
      this.#claim(slot, owner, compiled);
      slots.add(slot);
      return compiled;
    });
    for (const slot of earlier.keys()) {
      this.#claim(slot, owner, undefined);
      slots.add(slot);
    }
    if (kept.length > 0) this.#units.set(owner, kept);
    else this.#units.delete(owner);
  }

  #claim(name: string, owner: Owner, compiled: Compiled | undefined): void {
    let slot = this.#slots.get(name);
    if (!slot) this.#slots.set(name, (slot = { claims: [], inForce: undefined }));
    const others = slot.claims.filter((claim) => claim.owner !== owner);
    slot.claims = compiled ? [...others, { owner, compiled }] : others;
  }

  #settle(slots: ReadonlySet<string>): CompiledChange {
    const addresses: CompiledAddress[] = [];
    const removedAddresses: (WorkloadUid | ServiceKey)[] = [];
    const authorizations: CompiledAuthorization[] = [];
    const removedAuthorizations: PolicyKey[] = [];
    for (const name of slots) {
      const slot = this.#slots.get(name);
      if (!slot) continue;
      const before = slot.inForce;
      const after = winner(slot.claims);
      slot.inForce = after;
      if (!after) this.#slots.delete(name);
      if (before === after) continue;
      if (after) {
        if (after.type === "authorization") authorizations.push(after);
        else addresses.push(after);
      } else if (before) {
        if (before.type === "authorization") removedAuthorizations.push(before.key);
        else removedAddresses.push(before.type === "workload" ? before.uid : before.key);
      }
    }
    return { addresses, removedAddresses, authorizations, removedAuthorizations };
  }
}

/** A Service before a ServiceEntry that claims the same host, then by name. */
function winner(claims: readonly Claim[]): Compiled | undefined {
  let best: Claim | undefined;
  for (const claim of claims) if (!best || precedes(claim.owner, best.owner)) best = claim;
  return best?.compiled;
}

function precedes(a: Owner, b: Owner): boolean {
  const rank = (owner: Owner): number => (owner.startsWith("ServiceEntry/") ? 1 : 0);
  return rank(a) === rank(b) ? a < b : rank(a) < rank(b);
}
