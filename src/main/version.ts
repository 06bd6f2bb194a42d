/** The version of this build, from package.json. */
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** Beside src/, or two levels above dist/src/main. */
const places = ["../../package.json", "../../../package.json"];

export function readVersion(): string {
  for (const place of places) {
    const path = fileURLToPath(new URL(place, import.meta.url));
    if (existsSync(path)) return (JSON.parse(readFileSync(path, "utf8")) as { version: string }).version;
  }
  return "unknown";
}
