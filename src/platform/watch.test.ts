import {
  appendFileSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import { eventually } from "../../test/helpers/eventually.js";
import { scratchDirectory } from "../../test/helpers/scratch.js";
import { SeededRandom } from "../../test/helpers/seeded-random.js";
import { systemClock } from "./clock.js";
import { watchDirectory, type WatchOptions } from "./watch.js";
import { kernelWatch } from "./watched-tree.js";

interface Watching {
  readonly errors: string[];
  looks: number;
  /** Makes a change and waits for a look that sees it. */
  readonly told: (what: string, change: () => void) => Promise<void>;
}

/** All that is below a directory, links followed. */
function contents(directory: string): string {
  const found = readdirSync(directory, { recursive: true, encoding: "utf8" }).sort();
  return JSON.stringify(
    found.map((name) => {
      const path = join(directory, name);
      return [name, statSync(path).isFile() ? readFileSync(path, "utf8") : "directory"];
    }),
  );
}

async function watching(directory: string, options: Partial<WatchOptions> = {}): Promise<Watching> {
  const abort = new AbortController();
  onTestFinished(() => abort.abort());
  let seen = contents(directory);
  const watched: Watching = {
    errors: [],
    looks: 0,
    told: async (what, change) => {
      change();
      const there = contents(directory);
      expect(there).not.toBe(seen);
      await eventually(what, () => seen === there);
    },
  };
  const { onChange } = options;
  await watchDirectory(directory, {
    clock: systemClock,
    signal: abort.signal,
    debounceMs: 20,
    longestWaitMs: 300,
    recheckMs: 60_000,
    onError: (message) => watched.errors.push(message),
    ...options,
    onChange: () => {
      watched.looks++;
      seen = contents(directory);
      return onChange?.();
    },
  });
  return watched;
}

/** Written beside and renamed over, as editors do. */
function replace(path: string, text: string): void {
  const staged = join(dirname(path), ".staged");
  writeFileSync(staged, text);
  renameSync(staged, path);
}

describe("watchDirectory", () => {
  it("tells of added, changed, replaced and removed files, at any depth, and not of what was there", async () => {
    const directory = scratchDirectory();
    const [old, fresh, deep] = ["old.yaml", "new.yaml", "sub/deeper/deep.yaml"].map((name) =>
      join(directory, name),
    ) as [string, string, string];
    writeFileSync(old, "1");
    const { told } = await watching(directory);
    await told("the new file", () => writeFileSync(fresh, "1"));
    await told("the change", () => appendFileSync(old, "2"));
    await told("the replacement", () => replace(old, "3"));
    await told("a file in a new directory", () => {
      mkdirSync(dirname(deep), { recursive: true });
      writeFileSync(deep, "1");
    });
    await told("the change in the new directory", () => writeFileSync(deep, "2"));
    await told("the removal", () => rmSync(fresh));
  });

  it("puts a burst together", async () => {
    const directory = scratchDirectory();
    const watched = await watching(directory);
    await watched.told("the burst", () => {
      for (let i = 0; i < 50; i++) writeFileSync(join(directory, `${i}.yaml`), "x");
    });
    expect(watched.looks).toBe(1);
  });

  it("tells of a ConfigMap's swap of its data directory, and of changes in the new one", async () => {
    const directory = scratchDirectory();
    mkdirSync(join(directory, "..v1"));
    writeFileSync(join(directory, "..v1/policy.yaml"), "1");
    symlinkSync("..v1", join(directory, "..data"));
    symlinkSync("..data/policy.yaml", join(directory, "policy.yaml"));
    const { told } = await watching(directory, { visible: (name) => !name.startsWith(".") });
    await told("the swap", () => {
      mkdirSync(join(directory, "..v2"));
      writeFileSync(join(directory, "..v2/policy.yaml"), "2");
      symlinkSync("..v2", join(directory, "..data_tmp"));
      renameSync(join(directory, "..data_tmp"), join(directory, "..data"));
      rmSync(join(directory, "..v1"), { recursive: true });
    });
    await told("the change", () => writeFileSync(join(directory, "..v2/policy.yaml"), "3"));
  });

  it("tells of a linked file's change and replacement", async () => {
    const directory = scratchDirectory();
    const target = join(scratchDirectory(), "policy.yaml");
    writeFileSync(target, "1");
    symlinkSync(target, join(directory, "policy.yaml"));
    const { told } = await watching(directory);
    await told("the change", () => writeFileSync(target, "2"));
    await told("the replacement", () => replace(target, "3"));
  });

  it("goes on with a directory that came in the watched one's place", async () => {
    const directory = join(scratchDirectory(), "config");
    mkdirSync(directory);
    const { told } = await watching(directory, { recheckMs: 50 });
    await told("the new directory", () => {
      renameSync(directory, `${directory}.old`);
      mkdirSync(directory);
      writeFileSync(join(directory, "b.yaml"), "1");
    });
    await told("the file in it", () => writeFileSync(join(directory, "a.yaml"), "1"));
  });

  it("looks regularly where the kernel cannot watch, and says so once", async () => {
    const watched = await watching(scratchDirectory(), {
      recheckMs: 20,
      watchOne: () => {
        throw Object.assign(new Error("no space left on device"), { code: "ENOSPC" });
      },
    });
    await eventually("several looks", () => watched.looks > 3);
    expect(watched.errors).toEqual(["watching failed, looking regularly instead"]);
  });

  it("watches anew what the kernel stopped to watch", async () => {
    const directory = scratchDirectory();
    const watchers: ReturnType<typeof kernelWatch>[] = [];
    const { told } = await watching(directory, {
      watchOne: (path, onEvent) => {
        const watcher = kernelWatch(path, onEvent);
        watchers.push(watcher);
        return watcher;
      },
    });
    watchers[0]!.emit("error", new Error("gone"));
    await eventually("another watch", () => watchers.length === 2);
    await told("a change after it", () => writeFileSync(join(directory, "a.yaml"), "1"));
  });

  it("goes on after onChange throws", async () => {
    const directory = scratchDirectory();
    const { told, errors } = await watching(directory, {
      onChange: () => {
        throw new Error("broken");
      },
    });
    await told("the first", () => writeFileSync(join(directory, "a"), "1"));
    await told("the second", () => unlinkSync(join(directory, "a")));
    expect(new Set(errors)).toEqual(new Set(["handling a change failed"]));
  });

  // A watch set on each file loses the second of two replacements while it is set anew on the first.
  it("misses no replacement of a file, however close it follows another", async () => {
    const directory = scratchDirectory();
    const path = join(directory, "policy.yaml");
    const random = new SeededRandom(7);
    replace(path, "0");
    const { told } = await watching(directory);
    for (let pair = 1; pair <= 40; pair++) {
      replace(path, `${pair} first`);
      await systemClock.sleep(5 + random.uniform() * 60);
      await told(`edit ${pair}`, () => replace(path, `${pair} second`));
    }
  });
});
