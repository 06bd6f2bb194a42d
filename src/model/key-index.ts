const none: ReadonlySet<never> = new Set<never>();

/** Key to values. Most keys have one, which is then kept without a set around it. */
export class KeyIndex<V extends string | object> {
  readonly #entries = new Map<string, V | Set<V>>();

  get(key: string): ReadonlySet<V> {
    const entry = this.#entries.get(key);
    if (entry === undefined) return none;
    return entry instanceof Set ? entry : new Set([entry]);
  }

  keys(): Iterable<string> {
    return this.#entries.keys();
  }

  add(key: string, value: V): void {
    const entry = this.#entries.get(key);
    if (entry === undefined) this.#entries.set(key, value);
    else if (entry instanceof Set) entry.add(value);
    else if (entry !== value) this.#entries.set(key, new Set([entry, value]));
  }

  delete(key: string, value: V): void {
    const entry = this.#entries.get(key);
    if (entry === value) this.#entries.delete(key);
    else if (entry instanceof Set && entry.delete(value) && entry.size === 0) this.#entries.delete(key);
  }
}
