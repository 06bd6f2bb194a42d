import { dropReasons, passReasons, type Counts, type DropReason, type PassReason } from "./mode.js";

const known: ReadonlySet<string> = new Set([...dropReasons, ...passReasons]);
const isKnown = (name: string): name is DropReason | PassReason => known.has(name);

/** Counters of the closed set of reasons; what else there is, a newer program counts. */
export function readCounts(counters: Iterable<readonly [string, number]>): Counts {
  const counts = new Map<DropReason | PassReason, number>();
  for (const [name, packets] of counters) if (isKnown(name)) counts.set(name, packets);
  return counts;
}
