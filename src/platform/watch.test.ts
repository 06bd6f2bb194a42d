import { mkdirSync, renameSync, rmSync, symlinkSync, unlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import { eventually } from "../../test/helpers/eventually.js";
import { scratchDirectory } from "../../test/helpers/scratch.js";
import { systemClock } from "./clock.js";
import { watchDirectory } from "./watch.js";

async function watched(
  directory: string,
  options: { poll?: boolean; onChange?: () => void } = {},
): Promise<{ batches: string[][]; errors: string[] }> {
  const abort = new AbortController();
  onTestFinished(() => abort.abort());
  const batches: string[][] = [];
  const errors: string[] = [];
  await watchDirectory(directory, {
    clock: systemClock,
    signal: abort.signal,
    debounceMs: 30,
    longestWaitMs: 300,
    pollMs: 50,
    poll: options.poll ?? false,
    onChange: (paths) => {
      batches.push([...paths].sort());
      options.onChange?.();
    },
    onError: (message) => errors.push(message),
  });
  return { batches, errors };
}

describe.each([
  ["inotify", false],
  ["polling", true],
])("watchDirectory by %s", (_name, poll) => {
  it("reports added, changed and removed files below the directory, and not what was there", async () => {
    const directory = scratchDirectory();
    const [old, fresh, deep] = [
      join(directory, "old.yaml"),
      join(directory, "new.yaml"),
      join(directory, "sub/deep.yaml"),
    ];
    writeFileSync(old, "1");
    const { batches } = await watched(directory, { poll });
    const saw = (path: string) => () => batches.flat().includes(path);
    expect(batches).toEqual([]);
    writeFileSync(fresh, "1");
    await eventually("the new file", saw(fresh));
    batches.length = 0;
    writeFileSync(old, "22");
    await eventually("the change", saw(old));
    mkdirSync(join(directory, "sub"));
    writeFileSync(deep, "1");
    await eventually("the file in a new directory", saw(deep));
    batches.length = 0;
    rmSync(fresh);
    await eventually("the removal", saw(fresh));
  });
});

describe("watchDirectory", () => {
  it("puts a burst together", async () => {
    const directory = scratchDirectory();
    const { batches } = await watched(directory);
    for (let i = 0; i < 50; i++) writeFileSync(join(directory, `${i}.yaml`), "x");
    await eventually("all fifty", () => new Set(batches.flat()).size === 50);
    expect(batches.length).toBeLessThan(10);
  });

  it("sees a ConfigMap's swap of its data directory", async () => {
    const directory = scratchDirectory();
    const file = join(directory, "policy.yaml");
    mkdirSync(join(directory, "..v1"));
    writeFileSync(join(directory, "..v1/policy.yaml"), "1");
    symlinkSync("..v1", join(directory, "..data"));
    symlinkSync("..data/policy.yaml", file);
    const { batches } = await watched(directory);
    mkdirSync(join(directory, "..v2"));
    writeFileSync(join(directory, "..v2/policy.yaml"), "2");
    symlinkSync("..v2", join(directory, "..data_tmp"));
    renameSync(join(directory, "..data_tmp"), join(directory, "..data"));
    rmSync(join(directory, "..v1"), { recursive: true });
    await eventually("any change", () => batches.length > 0);
  });

  it("goes on after onChange throws", async () => {
    const directory = scratchDirectory();
    const { batches, errors } = await watched(directory, {
      onChange: () => {
        throw new Error("broken");
      },
    });
    writeFileSync(join(directory, "a"), "1");
    await eventually("the error", () => errors.length > 0);
    unlinkSync(join(directory, "a"));
    await eventually("the next batch", () => batches.length > 1);
  });
});
