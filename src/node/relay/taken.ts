import type { RelayedResource } from "../../xds/relayed-resource.js";

/**
 * What the node's data plane has taken: the only state that is worth starting from again. A resource that
 * it refuses does not displace the one that it has.
 */
export class TakenState {
  readonly #resources = new Map<string, RelayedResource>();
  readonly #negative = new Set<string>();

  /** From an earlier run. */
  restore(resources: Iterable<RelayedResource>, negative: Iterable<string>): void {
    for (const resource of resources) this.#resources.set(keyOf(resource), resource);
    for (const name of negative) this.#negative.add(name);
  }

  get resources(): Iterable<RelayedResource> {
    return this.#resources.values();
  }

  get negative(): Iterable<string> {
    return this.#negative;
  }

  /** The form of a resource that was taken last. */
  former(resource: RelayedResource): RelayedResource | undefined {
    return this.#resources.get(keyOf(resource));
  }

  take(resource: RelayedResource): void {
    this.#resources.set(keyOf(resource), resource);
    for (const name of [resource.name, ...resource.aliases]) this.#negative.delete(name);
  }

  /** The data plane has been told that the names are gone, or have no object. */
  remove(
    type: RelayedResource["type"],
    names: readonly string[],
    isNegative: (name: string) => boolean,
  ): void {
    for (const name of names) {
      this.#resources.delete(`${type} ${name}`);
      if (isNegative(name)) this.#negative.add(name);
    }
  }

  /** Nobody asks for the names any more. */
  forget(type: RelayedResource["type"], names: readonly string[]): void {
    for (const name of names) {
      this.#resources.delete(`${type} ${name}`);
      this.#negative.delete(name);
    }
  }
}

const keyOf = ({ type, name }: RelayedResource): string => `${type} ${name}`;
