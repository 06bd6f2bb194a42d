import { rangeContains } from "./alias-index.js";
import { MultiIndex } from "./multi-index.js";
import type { AddressRange } from "./resource.js";

/**
 * Which subscriptions of one type care for what: the inverted index by which one change touches only
 * the streams that asked for it.
 */
export class Interest<Subscriber> {
  /** By name as asked for. */
  readonly named = new MultiIndex<string, Subscriber>();
  /** By the resource that an asked name stands for. */
  readonly resolved = new MultiIndex<string, Subscriber>();
  /** By what `scopeOf` says of the client. */
  readonly byScope = new MultiIndex<string, Subscriber>();
  readonly wildcards = new Set<Subscriber>();

  /** Asked names that lie in one of the ranges. */
  namesWithin(ranges: readonly AddressRange[]): string[] {
    if (ranges.length === 0) return [];
    return [...this.named.keys()].filter((name) => ranges.some((range) => rangeContains(range, name)));
  }
}
