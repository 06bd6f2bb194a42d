import { mkdir, mkdtemp, readdir, rename, rm, stat, symlink, unlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { MeltemiError } from "../../domain/error.js";
import type { Problem } from "../../domain/problem.js";
import type { SourceBatch } from "../../domain/source-event.js";
import { systemClock } from "../../platform/clock.js";
import { systemFiles } from "../../platform/files.js";
import { createLogger } from "../../platform/logger.js";
import { FileSource, type FileSourceOptions } from "./file-source.js";

const logger = createLogger({ level: "error", format: "json", clock: systemClock });

function namespace(name: string, mode = "ambient"): string {
  return `apiVersion: v1\nkind: Namespace\nmetadata:\n  name: ${name}\n  labels:\n    istio.io/dataplane-mode: ${mode}\n`;
}

function account(name: string, extra = ""): string {
  return `apiVersion: v1\nkind: ServiceAccount\nmetadata: { name: ${name}, namespace: shop }\n${extra}`;
}

const misspelt =
  "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: { name: pa, namespace: shop }\nspec: { mtsl: { mode: STRICT } }\n";
const strict =
  "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: { name: pa, namespace: shop }\nspec: { mtls: { mode: STRICT } }\n";

/** A directory under a running FileSource, and everything it said. */
class Watched {
  readonly batches: { readonly batch: SourceBatch; readonly atMs: number }[] = [];
  readonly #abort = new AbortController();
  #seen = 0;
  #running: Promise<void> = Promise.resolve();
  #wake: (() => void) | undefined;

  constructor(readonly directory: string) {}

  start(options: Partial<FileSourceOptions> = {}): void {
    const source = new FileSource({
      directory: this.directory,
      clock: systemClock,
      logger,
      rescanMs: 1_000,
      ...options,
    });
    this.#running = source.run((batch) => {
      this.batches.push({ batch, atMs: performance.now() });
      this.#wake?.();
    }, this.#abort.signal);
    this.#running.catch(() => this.#wake?.());
  }

  async write(path: string, text: string): Promise<void> {
    await mkdir(dirname(join(this.directory, path)), { recursive: true });
    await writeFile(join(this.directory, path), text);
  }

  /** The next batch that was not taken yet. */
  async next(): Promise<SourceBatch> {
    const deadline = AbortSignal.timeout(10_000);
    while (this.batches.length <= this.#seen) {
      await new Promise<void>((resolve, reject) => {
        this.#wake = resolve;
        deadline.addEventListener("abort", () => reject(new Error("no batch came")), { once: true });
      });
      await Promise.race([this.#running, Promise.resolve()]);
    }
    return this.batches[this.#seen++]!.batch;
  }

  async stop(): Promise<void> {
    this.#abort.abort();
    await this.#running;
  }
}

/** `apply ServiceAccount shop/a` for each event, sorted. */
function said(batch: SourceBatch): string[] {
  return batch.events
    .map((event) =>
      event.type === "apply"
        ? `apply ${event.object.kind} ${event.object.meta.namespace}/${event.object.meta.name}`
        : `remove ${event.kind} ${event.namespace}/${event.name}`,
    )
    .sort();
}

function errors(batch: SourceBatch): Problem[] {
  return batch.problems.filter(({ severity }) => severity === "error");
}

let watched: Watched;

beforeEach(async () => {
  watched = new Watched(await mkdtemp(join(tmpdir(), "meltemi-files-")));
});

afterEach(async () => {
  await watched.stop().catch(() => undefined);
  await rm(watched.directory, { recursive: true, force: true });
});

describe("the first batch", () => {
  test("is the whole state of all files, directories and forms", async () => {
    await watched.write("b/c.yml", namespace("shop"));
    await watched.write("a.yaml", `${account("one")}---\n# nothing\n---\n${account("two")}`);
    await watched.write(
      "d.json",
      JSON.stringify({
        apiVersion: "v1",
        kind: "List",
        items: [{ apiVersion: "v1", kind: "ServiceAccount", metadata: { name: "three", namespace: "shop" } }],
      }),
    );
    await watched.write(".hidden.yaml", account("hidden"));
    await watched.write("notes.txt", "not read");
    await watched.write("..data/x.yaml", account("mounted"));
    await symlink("..data/x.yaml", join(watched.directory, "x.yaml"));
    watched.start();
    const batch = await watched.next();
    expect(said(batch)).toEqual([
      "apply Namespace /shop",
      "apply ServiceAccount shop/mounted",
      "apply ServiceAccount shop/one",
      "apply ServiceAccount shop/three",
      "apply ServiceAccount shop/two",
    ]);
    expect(batch.problems).toEqual([]);
  });

  test("comes for an empty directory too", async () => {
    watched.start();
    expect(await watched.next()).toEqual({ events: [], problems: [] });
  });

  test("is refused where there is no directory", async () => {
    const source = new FileSource({
      directory: join(watched.directory, "absent"),
      clock: systemClock,
      logger,
    });
    const run = source.run(() => undefined, new AbortController().signal);
    await expect(run).rejects.toThrow(MeltemiError);
    await expect(run).rejects.toThrow(/there is no directory/);
  });
});

describe("changes", () => {
  test("tell only what changed, and an add, a change and a removal", async () => {
    await watched.write("a.yaml", `${account("one")}---\n${account("two")}`);
    watched.start();
    await watched.next();
    await watched.write("b.yaml", account("three"));
    expect(said(await watched.next())).toEqual(["apply ServiceAccount shop/three"]);
    await watched.write(
      "a.yaml",
      `${account("one")}---\n${account("two", "# no change\n")}---\n${account("four")}`,
    );
    expect(said(await watched.next())).toEqual(["apply ServiceAccount shop/four"]);
    await unlink(join(watched.directory, "b.yaml"));
    expect(said(await watched.next())).toEqual(["remove ServiceAccount shop/three"]);
  });

  test("come within 200 ms of the write", async () => {
    await watched.write("a.yaml", account("one"));
    watched.start();
    await watched.next();
    const delaysMs: number[] = [];
    for (let round = 0; round < 5; round++) {
      await watched.write(`${round}.yaml`, account(`round-${round}`));
      const writtenAtMs = performance.now();
      expect(said(await watched.next())).toEqual([`apply ServiceAccount shop/round-${round}`]);
      delaysMs.push(watched.batches.at(-1)!.atMs - writtenAtMs);
    }
    // The best of five: the machine that runs the tests may be busy, the source may not.
    expect(Math.min(...delaysMs)).toBeLessThan(200);
  });

  test("by a rename over the file, as editors do", async () => {
    await watched.write("a.yaml", namespace("shop", "ambient"));
    watched.start();
    await watched.next();
    await watched.write(".a.yaml.swp", namespace("shop", "none"));
    await rename(join(watched.directory, ".a.yaml.swp"), join(watched.directory, "a.yaml"));
    const batch = await watched.next();
    expect(said(batch)).toEqual(["apply Namespace /shop"]);
    const [event] = batch.events;
    expect(event?.type === "apply" && event.object.meta.labels.get("istio.io/dataplane-mode")).toBe("none");
  });

  test("by removal and creation are seen as one change, also by a look between the two", async () => {
    await watched.write("a.yaml", `${account("one")}---\n${account("two")}`);
    watched.start({ doubtMs: 5_000 });
    await watched.next();
    await rename(join(watched.directory, "a.yaml"), join(watched.directory, "a.yaml~"));
    await watched.write("b.yaml", account("other"));
    expect(said(await watched.next())).toEqual(["apply ServiceAccount shop/other"]);
    await watched.write("a.yaml", `${account("one")}---\n${account("two")}---\n${account("three")}`);
    expect(said(await watched.next())).toEqual(["apply ServiceAccount shop/three"]);
  });

  test("of an object that moves to another file say nothing", async () => {
    await watched.write("a.yaml", `${account("one")}---\n${account("two")}`);
    watched.start();
    await watched.next();
    await watched.write("b.yaml", account("two"));
    await watched.write("a.yaml", account("one"));
    await watched.write("c.yaml", account("three"));
    const seen: string[] = [];
    while (!seen.includes("apply ServiceAccount shop/three")) seen.push(...said(await watched.next()));
    expect(seen).toEqual(["apply ServiceAccount shop/three"]);
  });
});

describe("what is wrong", () => {
  test("in one document leaves its last good form, and the others apply", async () => {
    await watched.write("a.yaml", `${strict}---\n${account("one")}`);
    watched.start();
    await watched.next();
    await watched.write("a.yaml", `${misspelt}---\n${account("one")}---\n${account("two")}`);
    const batch = await watched.next();
    expect(said(batch)).toEqual(["apply ServiceAccount shop/two"]);
    expect(errors(batch)).toMatchObject([
      {
        location: "a.yaml:4",
        path: "spec.mtsl",
        hint: 'did you mean "mtls"?',
        object: { kind: "PeerAuthentication", name: "pa" },
      },
    ]);
    await watched.write("a.yaml", `${strict}---\n${account("one")}---\n${account("two")}`);
    expect(await watched.next()).toEqual({ events: [], problems: [] });
  });

  test("with YAML itself keeps all that the file had, also through two bad versions", async () => {
    await watched.write("a.yaml", `${strict}---\n${account("one")}`);
    watched.start();
    await watched.next();
    await watched.write("a.yaml", "kind: [unclosed\n");
    const first = await watched.next();
    expect(said(first)).toEqual([]);
    expect(errors(first)).toMatchObject([
      {
        location: expect.stringMatching(/^a\.yaml:\d+$/) as string,
        message: expect.stringContaining("is not YAML") as string,
      },
    ]);
    await watched.write("a.yaml", `kind: {unclosed\n---\n${account("two")}`);
    const second = await watched.next();
    expect(said(second)).toEqual(["apply ServiceAccount shop/two"]);
    expect(errors(second)).toHaveLength(1);
    await watched.write("a.yaml", account("two"));
    expect(said(await watched.next())).toEqual([
      "remove PeerAuthentication shop/pa",
      "remove ServiceAccount shop/one",
    ]);
  });

  test("for a moment, in a file written in two parts, is not seen", async () => {
    const text = `${strict}---\n${account("one")}---\n${account("two")}`;
    await watched.write("a.yaml", text);
    watched.start();
    await watched.next();
    await watched.write("a.yaml", "");
    await watched.write("a.yaml", text.slice(0, 150));
    await watched.write("a.yaml", `${text}---\n${account("three")}`);
    const batch = await watched.next();
    expect(said(batch)).toEqual(["apply ServiceAccount shop/three"]);
    expect(batch.problems).toEqual([]);
  });

  test("an object in two files is that of the first path; the other is named, and takes over", async () => {
    await watched.write("a.yaml", namespace("shop", "ambient"));
    await watched.write("b.yaml", `\n${namespace("shop", "none")}`);
    watched.start();
    const batch = await watched.next();
    expect(said(batch)).toEqual(["apply Namespace /shop"]);
    expect(errors(batch)).toMatchObject([
      { location: "b.yaml:2", message: "is also in a.yaml:1, which is in force" },
    ]);
    await unlink(join(watched.directory, "a.yaml"));
    const after = await watched.next();
    expect(said(after)).toEqual(["apply Namespace /shop"]);
    expect(after.problems).toEqual([]);
  });

  test("an object said twice in the same words is only a warning", async () => {
    await watched.write("a.yaml", namespace("shop"));
    await watched.write("b.yaml", namespace("shop"));
    watched.start();
    const batch = await watched.next();
    expect(batch.problems).toMatchObject([
      { severity: "warning", location: "b.yaml:1", message: "is also in a.yaml:1, the same" },
    ]);
    await unlink(join(watched.directory, "a.yaml"));
    expect(await watched.next()).toEqual({ events: [], problems: [] });
  });

  test("a file that is not text keeps what it had", async () => {
    await watched.write("a.yaml", account("one"));
    watched.start();
    await watched.next();
    await writeFile(join(watched.directory, "a.yaml"), Buffer.from([0xff, 0xfe, 0x00, 0x0a]));
    const batch = await watched.next();
    expect(batch.events).toEqual([]);
    expect(errors(batch)).toMatchObject([{ location: "a.yaml", message: "is not UTF-8 text" }]);
  });

  test("a directory that disappears removes nothing", async () => {
    await watched.write("a.yaml", account("one"));
    watched.start();
    await watched.next();
    await rename(watched.directory, `${watched.directory}-away`);
    try {
      const batch = await watched.next();
      expect(batch.events).toEqual([]);
      expect(errors(batch)).toMatchObject([{ message: expect.stringContaining("stays in force") as string }]);
    } finally {
      await rename(`${watched.directory}-away`, watched.directory);
    }
    expect(await watched.next()).toEqual({ events: [], problems: [] });
  });
});

describe("the last good form, kept over a restart", () => {
  const kept = (): string => `${watched.directory}-kept`;
  const options = (): Partial<FileSourceOptions> => ({ lastGood: { directory: kept(), files: systemFiles } });
  /** A first run that sees good files, and ends. */
  const once = async (directory: string): Promise<void> => {
    const first = new Watched(directory);
    first.start(options());
    await first.next();
    await first.stop();
  };

  afterEach(() => rm(kept(), { recursive: true, force: true }));

  test("is in force although the file was broken meanwhile", async () => {
    await watched.write("policies/a.yaml", `${strict}---\n${account("one")}`);
    await watched.write("b.yaml", account("two"));
    await once(watched.directory);
    await watched.write("policies/a.yaml", `${misspelt}---\n${account("three")}`);
    await watched.write("b.yaml", "kind: [\n");
    watched.start(options());
    const batch = await watched.next();
    expect(said(batch)).toEqual([
      "apply PeerAuthentication shop/pa",
      "apply ServiceAccount shop/three",
      "apply ServiceAccount shop/two",
    ]);
    expect(errors(batch).map(({ location }) => location)).toEqual(["b.yaml:2", "policies/a.yaml:4"]);
  });

  test("survives any number of restarts with the file broken", async () => {
    await watched.write("a.yaml", strict);
    await once(watched.directory);
    await watched.write("a.yaml", misspelt);
    await once(watched.directory);
    await once(watched.directory);
    watched.start(options());
    expect(said(await watched.next())).toEqual(["apply PeerAuthentication shop/pa"]);
  });

  test("does not come back with a new file of a removed one's name", async () => {
    await watched.write("a.yaml", strict);
    await once(watched.directory);
    await unlink(join(watched.directory, "a.yaml"));
    await once(watched.directory);
    await watched.write("a.yaml", "kind: [\n");
    watched.start(options());
    const batch = await watched.next();
    expect(batch.events).toEqual([]);
    expect(errors(batch)).toHaveLength(1);
  });

  test("is written for the user alone, and only when it changed", async () => {
    await watched.write("a.yaml", strict);
    await once(watched.directory);
    const [name] = await readdir(kept());
    const before = await stat(join(kept(), name!));
    expect(before.mode & 0o777).toBe(0o600);
    await once(watched.directory);
    expect((await stat(join(kept(), name!))).ino).toBe(before.ino);
  });
});

test("a ConfigMap's mount, whose files are swapped by one link, is followed", async () => {
  const at = (path: string): string => join(watched.directory, path);
  await watched.write("..one/a.yaml", account("one"));
  await symlink("..one", at("..data"));
  await symlink("..data/a.yaml", at("a.yaml"));
  watched.start();
  expect(said(await watched.next())).toEqual(["apply ServiceAccount shop/one"]);
  await watched.write("..two/a.yaml", `${account("one")}---\n${account("two")}`);
  await symlink("..two", at("..data_tmp"));
  await rename(at("..data_tmp"), at("..data"));
  expect(said(await watched.next())).toEqual(["apply ServiceAccount shop/two"]);
});

test("a file that is rewritten without end is believed at last", async () => {
  await watched.write("a.yaml", account("one"));
  watched.start();
  await watched.next();
  let writing = true;
  const writer = (async () => {
    for (let round = 0; writing; round++) {
      await watched.write("a.yaml", account(`other-${round % 2}`));
      await systemClock.sleep(10);
    }
  })();
  const batch = await watched.next();
  writing = false;
  await writer;
  expect(said(batch)).toContain("remove ServiceAccount shop/one");
});

test("ten thousand pods in four files", async () => {
  for (let file = 0; file < 4; file++) {
    const pods = Array.from({ length: 2_500 }, (_, index) => {
      const name = `pod-${file}-${index}`;
      return `apiVersion: v1\nkind: Pod\nmetadata:\n  name: ${name}\n  namespace: ns-${index % 100}\n  labels:\n    app: a${index % 250}\nspec:\n  nodeName: node-${index % 500}\n  serviceAccountName: sa-${index % 250}\n  containers:\n    - name: app\n      ports:\n        - containerPort: 8080\nstatus:\n  podIP: 10.${file}.${index >> 8}.${index & 255}\n`;
    });
    await watched.write(`${file}.yaml`, pods.join("---\n"));
  }
  watched.start();
  const batch = await watched.next();
  expect(batch.events).toHaveLength(10_000);
  expect(batch.problems).toEqual([]);
});
