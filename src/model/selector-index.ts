import { selects } from "../domain/selector.js";

interface Entry<T> {
  readonly selector: ReadonlyMap<string, string>;
  readonly value: T;
}

/**
 * Selectors of one namespace by one of their labels: an object's labels lead to the few selectors
 * that can match it, without looking at the others.
 */
export class SelectorIndex<T> {
  readonly #buckets = new Map<string, Map<string, Entry<T>>>();

  /** `key` names the entry within the index. */
  set(namespace: string, key: string, selector: ReadonlyMap<string, string>, value: T): void {
    const bucket = bucketOf(namespace, selector);
    let entries = this.#buckets.get(bucket);
    if (!entries) this.#buckets.set(bucket, (entries = new Map<string, Entry<T>>()));
    entries.set(key, { selector, value });
  }

  delete(namespace: string, key: string, selector: ReadonlyMap<string, string>): void {
    const bucket = bucketOf(namespace, selector);
    const entries = this.#buckets.get(bucket);
    if (entries?.delete(key) && entries.size === 0) this.#buckets.delete(bucket);
  }

  /** All values of the namespace whose selector matches the labels. */
  *matching(namespace: string, labels: ReadonlyMap<string, string>): Iterable<T> {
    yield* this.#matchingIn(`${namespace}\n`, labels);
    for (const [key, value] of labels) yield* this.#matchingIn(`${namespace}\n${key}=${value}`, labels);
  }

  *#matchingIn(bucket: string, labels: ReadonlyMap<string, string>): Iterable<T> {
    const entries = this.#buckets.get(bucket);
    if (!entries) return;
    for (const { selector, value } of entries.values()) if (selects(selector, labels)) yield value;
  }
}

/** The first label in order of keys stands for the selector. */
function bucketOf(namespace: string, selector: ReadonlyMap<string, string>): string {
  let least: string | undefined;
  for (const key of selector.keys()) if (least === undefined || key < least) least = key;
  return least === undefined ? `${namespace}\n` : `${namespace}\n${least}=${selector.get(least) ?? ""}`;
}
