import { mkdirSync, readFileSync, readdirSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { scratchDirectory } from "../../test/helpers/scratch.js";
import { systemFiles } from "./files.js";

describe("systemFiles", () => {
  it("replaces a file as a whole, with its mode, and leaves nothing beside it", async () => {
    const directory = scratchDirectory();
    const path = join(directory, "state.json");
    writeFileSync(path, "old", { mode: 0o644 });
    await systemFiles.writeAtomic(path, "new");
    expect(readFileSync(path, "utf8")).toBe("new");
    expect(statSync(path).mode & 0o777).toBe(0o600);
    await systemFiles.writeAtomic(path, new Uint8Array([1, 2]), { mode: 0o644 });
    expect(statSync(path).mode & 0o777).toBe(0o644);
    expect(readdirSync(directory)).toEqual(["state.json"]);
  });

  it("never shows a part: readers during many writes see one whole version", async () => {
    const path = join(scratchDirectory(), "state");
    const versions = ["a".repeat(200_000), "b".repeat(100_000)];
    await systemFiles.writeAtomic(path, versions[0]!);
    let writing = true;
    const writer = (async () => {
      for (let i = 0; i < 30; i++) await systemFiles.writeAtomic(path, versions[i % 2]!);
      writing = false;
    })();
    let reads = 0;
    while (writing) {
      const text = (await systemFiles.read(path)).toString();
      expect(versions.includes(text)).toBe(true);
      reads++;
    }
    await writer;
    expect(reads).toBeGreaterThan(0);
  });

  it("removes what it staged when the rename fails", async () => {
    const directory = scratchDirectory();
    mkdirSync(join(directory, "taken"));
    await expect(systemFiles.writeAtomic(join(directory, "taken"), "x")).rejects.toMatchObject({
      code: "system",
    });
    expect(readdirSync(directory)).toEqual(["taken"]);
  });

  it("names the path, and tells absent from broken", async () => {
    const directory = scratchDirectory();
    const path = join(directory, "absent");
    await expect(systemFiles.read(path)).rejects.toMatchObject({
      code: "not_found",
      message: expect.stringContaining(path) as string,
    });
    await expect(systemFiles.read(directory)).rejects.toMatchObject({ code: "system" });
    expect(await systemFiles.readIfPresent(path)).toBeUndefined();
    expect(await systemFiles.list(path)).toEqual([]);
    await systemFiles.remove(path);
  });

  it("lists names and kinds in order", async () => {
    const directory = scratchDirectory();
    writeFileSync(join(directory, "b"), "");
    mkdirSync(join(directory, "a"));
    symlinkSync("b", join(directory, "c"));
    expect(await systemFiles.list(directory)).toEqual([
      { name: "a", kind: "directory" },
      { name: "b", kind: "file" },
      { name: "c", kind: "other" },
    ]);
  });
});
