import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { MeltemiError, messageOf } from "../domain/error.js";
import type { NativeAddon } from "./native-addon.js";

export type * from "./native-addon.js";

/** The repository, seen from src/platform (vitest) and from dist/src/platform (compiled). */
const places = ["../..", "../../.."];
const file = "native/dist/node-addon.node";

let loaded: NativeAddon | undefined;

/**
 * The native addon, loaded once per process.
 * @throws MeltemiError `unavailable` when it is not built, or does not load on this machine.
 */
export function loadNative(): NativeAddon {
  loaded ??= loadFrom(dirname(fileURLToPath(import.meta.url)));
  return loaded;
}

/** As `loadNative`, seen from another directory. Not cached. */
export function loadFrom(directory: string): NativeAddon {
  const path = places.map((place) => join(directory, place, file)).find((candidate) => existsSync(candidate));
  if (path === undefined) {
    throw new MeltemiError("unavailable", `The native addon (${file}) is not built.`, {
      hint: "Run: npm run setup",
    });
  }
  try {
    return createRequire(import.meta.url)(path) as NativeAddon;
  } catch (error) {
    throw new MeltemiError("unavailable", `The native addon ${path} does not load: ${messageOf(error)}`, {
      hint: "It was built for another Node or another system. Remove native/dist and run: npm run setup",
      cause: error,
    });
  }
}
