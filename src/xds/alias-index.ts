import { cidrContains } from "../domain/ip.js";
import type { AddressRange, XdsResource } from "./resource.js";

/** A workload before a service, then by name: the same winner on every replica. */
function before(a: XdsResource, b: XdsResource): boolean {
  if (a.kind !== b.kind) return a.kind === "workload";
  return a.name < b.name;
}

/** Splits `NETWORK/IP`; undefined for names of another form. */
export function parseAddressName(
  name: string,
): { readonly network: string; readonly ip: string } | undefined {
  const slash = name.indexOf("/");
  if (slash < 0) return undefined;
  const ip = name.slice(slash + 1);
  return /^[0-9a-fA-F.:]+$/.test(ip) && /[.:]/.test(ip) ? { network: name.slice(0, slash), ip } : undefined;
}

export function rangeContains(range: AddressRange, name: string): boolean {
  const address = parseAddressName(name);
  return address !== undefined && address.network === range.network && cidrContains(range, address.ip);
}

/** Aliases and address ranges to resources; several may claim one. */
export class AliasIndex {
  readonly #exact = new Map<string, XdsResource | XdsResource[]>();
  readonly #ranged = new Set<XdsResource>();

  find(name: string): XdsResource | undefined {
    const exact = this.#exact.get(name);
    if (exact)
      return Array.isArray(exact) ? exact.reduce((best, next) => (before(next, best) ? next : best)) : exact;
    let best: { readonly resource: XdsResource; readonly length: number } | undefined;
    for (const resource of this.#ranged) {
      for (const range of resource.ranges) {
        if (!rangeContains(range, name)) continue;
        const wins =
          !best ||
          range.length > best.length ||
          (range.length === best.length && before(resource, best.resource));
        if (wins) best = { resource, length: range.length };
      }
    }
    return best?.resource;
  }

  add(resource: XdsResource): void {
    for (const alias of resource.aliases) {
      const present = this.#exact.get(alias);
      if (!present) this.#exact.set(alias, resource);
      else if (Array.isArray(present)) present.push(resource);
      else this.#exact.set(alias, [present, resource]);
    }
    if (resource.ranges.length > 0) this.#ranged.add(resource);
  }

  remove(resource: XdsResource): void {
    for (const alias of resource.aliases) {
      const present = this.#exact.get(alias);
      if (present === resource) this.#exact.delete(alias);
      else if (Array.isArray(present)) {
        const [first, ...others] = present.filter((other) => other !== resource);
        if (first) this.#exact.set(alias, others.length > 0 ? [first, ...others] : first);
      }
    }
    this.#ranged.delete(resource);
  }
}
