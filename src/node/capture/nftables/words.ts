import { markMask } from "../marks.js";
import type { DropReason, PassReason } from "../mode.js";

/** Words of nft's language that our tables are made of. */
export const firstSegment = "tcp flags & (fin | syn | rst | ack) == syn";

export const withMark = (operator: "==" | "!=", mark: string): string =>
  `meta mark & ${markMask} ${operator} ${mark}`;

/** A counter's name: some reasons by themselves are words of the language. */
export const counter = (reason: DropReason | PassReason): string => `counter name c_${reason}`;

export const drop = (reason: DropReason): string => `${counter(reason)} drop`;

/** An anonymous set. */
export const elements = (values: readonly (string | number)[]): string => `{ ${values.join(", ")} }`;

export const chain = (name: string, hook: string, rules: readonly string[]): string[] => [
  `  chain ${name} {`,
  `    type ${hook}; policy accept;`,
  ...rules.map((rule) => `    ${rule}`),
  "  }",
];

export const declareCounters = (names: readonly string[]): string[] =>
  names.map((name) => `  counter c_${name} { }`);

/** A table that is there is deleted, and one that is not is no error. */
export const absent = (table: string): readonly string[] => [
  `add table inet ${table}`,
  `delete table inet ${table}`,
];
