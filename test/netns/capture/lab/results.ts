/** The results of a suite, for the tables in docs/threat-model.md (scripts/threat-tables.mjs). */
import { mkdirSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect } from "vitest";
import { documented, render, structureOf, type Suite } from "../../../../scripts/threat-tables.mjs";
import { root } from "./kit.js";

/**
 * Replaces the suite's results as a whole, so that a run that fails leaves the former ones. Then the document has
 * to say the same: every row, who stops it, that nothing came through; not its times and counts.
 */
export function writeResults(suite: Suite, rows: readonly object[]): void {
  const directory = join(root, ".cache/threat-model");
  mkdirSync(directory, { recursive: true });
  const path = join(directory, `${suite}.json`);
  writeFileSync(
    `${path}.new`,
    `${JSON.stringify({ suite, at: new Date().toISOString(), rows }, undefined, 2)}\n`,
  );
  renameSync(`${path}.new`, path);
  expect(structureOf(documented(suite)), "docs/threat-model.md: run node scripts/threat-tables.mjs").toBe(
    structureOf(render(suite, rows)),
  );
}
