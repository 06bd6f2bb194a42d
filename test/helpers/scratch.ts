import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { onTestFinished } from "vitest";

/** A directory that is removed when the current test has finished. */
export function scratchDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), "meltemi-"));
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}
