/** The results of a suite, for the tables in docs/threat-model.md (scripts/threat-tables.mjs). */
import { mkdirSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "./kit.js";

/** Replaces the suite's results as a whole, so that a run that fails leaves the former ones. */
export function writeResults(suite: "attacks" | "faults", rows: readonly object[]): void {
  const directory = join(root, ".cache/threat-model");
  mkdirSync(directory, { recursive: true });
  const path = join(directory, `${suite}.json`);
  writeFileSync(
    `${path}.new`,
    `${JSON.stringify({ suite, at: new Date().toISOString(), rows }, undefined, 2)}\n`,
  );
  renameSync(`${path}.new`, path);
}
