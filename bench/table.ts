/** Computes the tables of raw runs again: node dist/bench/table.js bench/results/FILE.json... */
import { readFile } from "node:fs/promises";
import { capturePasses, renderCaptureTable } from "./capture/table.js";
import { controlPlanePasses, renderControlPlaneTable } from "./control-plane/table.js";
import { l7Passes, renderL7Table } from "./l7/table.js";
import type { RawRuns } from "./report/raw.js";
import { passes, renderTable } from "./report/table.js";
import { pathToFileURL } from "node:url";

/** The table of raw runs, whichever benchmark they are of. */
export function tableOf(raw: RawRuns): string {
  switch (raw.benchmark) {
    case "l4":
      return renderTable(raw);
    case "l7":
      return renderL7Table(raw);
    case "control-plane":
      return renderControlPlaneTable(raw);
    case "capture":
      return renderCaptureTable(raw);
  }
}

/** Whether all of it counts, and no measured floor is missed. */
export function passesOf(raw: RawRuns): boolean {
  switch (raw.benchmark) {
    case "l4":
      return passes(raw);
    case "l7":
      return l7Passes(raw);
    case "control-plane":
      return controlPlanePasses(raw);
    case "capture":
      return capturePasses(raw);
  }
}

const [, script, ...files] = process.argv;
if (script !== undefined && import.meta.url === pathToFileURL(script).href)
  for (const file of files)
    process.stdout.write(tableOf(JSON.parse(await readFile(file, "utf8")) as RawRuns));
