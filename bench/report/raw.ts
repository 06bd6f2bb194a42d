/** The raw runs as they are committed: what a table is computed from, and nothing else. */

/** Names of numbers; the unit is in the name. */
export type Values = Readonly<Record<string, number>>;

/** What was measured of one contender in one round. */
export interface ContenderRound {
  readonly values: Values;
  /** Why these numbers do not count; empty when they do. */
  readonly voided: readonly string[];
  /** What was seen on the wire and what the load generator said, for whoever doubts a number. */
  readonly evidence: readonly unknown[];
}

export interface Round {
  readonly round: number;
  /** Load averages of the machine over 1, 5 and 15 minutes when the round began. */
  readonly loadAverage: readonly number[];
  readonly startedAt: string;
  readonly contenders: Readonly<Record<string, ContenderRound>>;
}

/** Where it ran, and which commit. */
export interface Machine {
  readonly commit: string;
  /** Files of the product that differed from the commit. */
  readonly uncommitted: readonly string[];
  readonly kernel: string;
  readonly cpu: string;
  readonly cores: number;
  readonly memoryGb: number;
  readonly node: string;
}

/** One program that took part. */
export interface Program {
  readonly path: string;
  readonly sha256: string;
  readonly version: string;
}

export interface RawRuns {
  readonly benchmark: "l4" | "l7" | "control-plane" | "capture";
  readonly startedAt: string;
  readonly machine: Machine;
  readonly programs: Readonly<Record<string, Program>>;
  readonly settings: Readonly<Record<string, number | string | boolean>>;
  readonly rounds: readonly Round[];
}
