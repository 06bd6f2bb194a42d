import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { RawRuns } from "./raw.js";

/** Writes the raw runs and their table side by side, named by benchmark, time and commit. Gives the paths. */
export async function writeResults(
  directory: string,
  raw: RawRuns,
  table: string,
): Promise<{ readonly json: string; readonly markdown: string }> {
  const time = raw.startedAt.slice(0, 16).replaceAll(":", "").replace("T", "-");
  const base = join(directory, `${raw.benchmark}-${time}-${raw.machine.commit.slice(0, 10)}`);
  const paths = { json: `${base}.json`, markdown: `${base}.md` };
  await mkdir(directory, { recursive: true });
  await writeFile(paths.json, `${JSON.stringify(raw, undefined, 1)}\n`);
  await writeFile(paths.markdown, table);
  return paths;
}
