/** The version of this build, from package.json. */
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { z } from "zod";

const shape = z.object({ version: z.string() });

/** Beside src/, or two levels above dist/src/main. */
const places = ["../../package.json", "../../../package.json"];

export function readVersion(): string {
  for (const place of places) {
    const path = fileURLToPath(new URL(place, import.meta.url));
    if (existsSync(path)) return shape.parse(JSON.parse(readFileSync(path, "utf8"))).version;
  }
  return "unknown";
}
