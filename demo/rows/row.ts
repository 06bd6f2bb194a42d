import type { World } from "../world.js";

/** The things that `--sabotage` can break, each of which turns exactly one row red. */
export const sabotages = [
  "plaintext",
  "netfilter",
  "policy",
  "identity",
  "source",
  "ipv6",
  "canary",
  "header",
  "retry",
  "methods",
  "token",
  "fault",
  "bypass",
  "rotation",
  "failopen",
] as const;
export type Sabotage = (typeof sabotages)[number];

/** What a row observed, and whether that is what was expected. */
export interface Observation {
  readonly seen: string;
  readonly ok: boolean;
}

/** One claim of the product, tried on the running mesh. */
export interface Row {
  readonly name: string;
  /** Where it depends on what this machine allows, asked when the mesh is up. */
  readonly expected: string | ((world: World) => string);
  /** The sabotage that this row, and no other, must notice. */
  readonly noticed?: Sabotage;
  /** Tries it; with `broken`, breaks the one thing that it is about first and mends it after. Leaves the world as it was. */
  readonly attempt: (world: World, broken: boolean) => Promise<Observation>;
}

/** What a row expects of this world. */
export function expectationOf({ expected }: Row, world: World): string {
  return typeof expected === "string" ? expected : expected(world);
}
