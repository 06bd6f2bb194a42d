import { readCounts } from "../counts.js";
import type { Counts } from "../mode.js";

/** A listing of one of our tables, split in what must not change and the counters. */
export interface Listing {
  readonly rules: string;
  readonly counts: Counts;
}

const counters = /counter c_(\w+) \{\s*packets (\d+)/g;

/** Reads the output of `nft list table inet NAME`. */
export function parseListing(text: string): Listing {
  const found = [...text.matchAll(counters)].map(
    ([, name = "", packets]) => [name, Number(packets)] as const,
  );
  return { rules: text.replace(/packets \d+ bytes \d+/g, "packets N bytes N"), counts: readCounts(found) };
}
