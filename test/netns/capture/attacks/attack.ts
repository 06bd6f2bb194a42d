/** A row of the attackers' table: what is tried, where one would see that it came through, and who counts it. */
import type { Family, Place } from "../cases/case.js";

/** Where a capture looks for the marker. */
export type Watched =
  /** The link between the nodes: what left the attacker's node. */
  | { readonly at: "wire" }
  /** What entered a pod. */
  | { readonly at: "entry"; readonly pod: string }
  /** What reached an application of a pod: the data plane speaks to it over loopback. */
  | { readonly at: "application"; readonly pod: string };

/** What stands in the attacker's way, and is taken away to see the attack succeed. */
export type Stands = "guard" | "guard and redirection";

export interface Attack {
  /** The row's own words, without the family. */
  readonly name: string;
  /** The pod that attacks, as root with a container's capabilities. */
  readonly from: string;
  /** Tools of `testkit attack`, all tried. `marker` is this row's own. */
  readonly tools: (place: Place, marker: string) => readonly (readonly string[])[];
  /** What the capture looks for, where it is not the marker in the payload. */
  readonly marker?: (place: Place) => string;
  readonly watched: Watched;
  readonly stands: Stands;
  /** Reasons of the guard's closed set, at least one of which counts it. */
  readonly counted: readonly string[];
  /** The pod whose guard counts it. */
  readonly guardOf: string;
  /** Both where it is absent. */
  readonly families?: readonly Family[];
}
