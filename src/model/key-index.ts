const none: ReadonlySet<never> = new Set<never>();

/** Key to set of values. */
export class KeyIndex<V> {
  readonly #sets = new Map<string, Set<V>>();

  get(key: string): ReadonlySet<V> {
    return this.#sets.get(key) ?? none;
  }

  add(key: string, value: V): void {
    const set = this.#sets.get(key);
    if (set) set.add(value);
    else this.#sets.set(key, new Set([value]));
  }

  delete(key: string, value: V): void {
    const set = this.#sets.get(key);
    if (set?.delete(value) && set.size === 0) this.#sets.delete(key);
  }
}
