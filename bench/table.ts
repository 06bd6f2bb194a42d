/** Computes the tables of raw runs again: node dist/bench/table.js bench/results/FILE.json... */
import { readFile } from "node:fs/promises";
import { controlPlanePasses, renderControlPlaneTable } from "./control-plane/table.js";
import type { RawRuns } from "./report/raw.js";
import { passes, renderTable } from "./report/table.js";
import { pathToFileURL } from "node:url";

/** The table of raw runs, whichever benchmark they are of. */
export const tableOf = (raw: RawRuns): string =>
  raw.benchmark === "l4" ? renderTable(raw) : renderControlPlaneTable(raw);

/** Whether all of it counts, and no measured floor is missed. */
export const passesOf = (raw: RawRuns): boolean =>
  raw.benchmark === "l4" ? passes(raw) : controlPlanePasses(raw);

const [, script, ...files] = process.argv;
if (script !== undefined && import.meta.url === pathToFileURL(script).href)
  for (const file of files)
    process.stdout.write(tableOf(JSON.parse(await readFile(file, "utf8")) as RawRuns));
