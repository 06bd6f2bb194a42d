import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { loadFrom, loadNative } from "../../../src/platform/native.js";
import { scratchDirectory } from "../../helpers/scratch.js";

const root = join(import.meta.dirname, "../../..");

describe("loading the addon", () => {
  it.each(["src/platform", "dist/src/platform"])("finds it from %s", (directory) => {
    expect(loadFrom(join(root, directory))).toBe(loadNative());
  });

  it("says what to do when it is not built", () => {
    expect(() => loadFrom(join(scratchDirectory(), "src/platform"))).toThrow(
      expect.objectContaining({ code: "unavailable", hint: "Run: npm run setup" }),
    );
  });

  it("says what to do when it is damaged", () => {
    const directory = scratchDirectory();
    mkdirSync(join(directory, "native/dist"), { recursive: true });
    writeFileSync(join(directory, "native/dist/node-addon.node"), "no library");
    expect(() => loadFrom(join(directory, "src/platform"))).toThrow(
      expect.objectContaining({
        code: "unavailable",
        hint: expect.stringContaining("npm run setup") as string,
      }),
    );
  });
});
