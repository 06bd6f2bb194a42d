/** Key to set of values, without empty sets. */
export class MultiIndex<K, V> {
  readonly #sets = new Map<K, Set<V>>();

  get(key: K): ReadonlySet<V> | undefined {
    return this.#sets.get(key);
  }

  keys(): IterableIterator<K> {
    return this.#sets.keys();
  }

  /** Answers whether the value is the key's first. */
  add(key: K, value: V): boolean {
    const set = this.#sets.get(key);
    if (set) {
      set.add(value);
      return false;
    }
    this.#sets.set(key, new Set([value]));
    return true;
  }

  /** Answers whether the value was the key's last. */
  delete(key: K, value: V): boolean {
    const set = this.#sets.get(key);
    if (!set?.delete(value) || set.size > 0) return false;
    this.#sets.delete(key);
    return true;
  }
}
