import { describe, expect, test } from "vitest";
import { formatProblem } from "../../domain/problem.js";
import type { SourceBatch } from "../../domain/source-event.js";
import { comparePaths } from "./directory.js";
import { DirectoryState } from "./directory-state.js";
import { isDoubtful, readFileState } from "./file-state.js";

function entry(name: string, weight: number | string): string {
  return `apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata:\n  name: ${name}\n  namespace: shop\nspec:\n  address: 10.9.0.1\n  weight: ${weight}\n`;
}

function write(state: DirectoryState, path: string, text: string): void {
  state.set(path, readFileState(path, text, state.file(path)));
}

/** `name=weight` of what was applied, `-name` of what was removed. */
function said(batch: SourceBatch | undefined): string[] | undefined {
  return batch?.events
    .map((event) => {
      if (event.type === "remove") return `-${event.name}`;
      return event.object.kind === "WorkloadEntry"
        ? `${event.object.meta.name}=${event.object.spec.weight}`
        : "other";
    })
    .sort();
}

function problems(batch: SourceBatch | undefined): string[] | undefined {
  return batch?.problems.map(formatProblem);
}

describe("objects of several files", () => {
  test("the first path wins in whatever order the files are read", () => {
    const state = new DirectoryState();
    write(state, "b.yaml", entry("x", 2));
    expect(said(state.takeBatch())).toEqual(["x=2"]);
    write(state, "a.yaml", entry("x", 1));
    const batch = state.takeBatch();
    expect(said(batch)).toEqual(["x=1"]);
    expect(problems(batch)).toEqual([
      "error: b.yaml:1: WorkloadEntry shop/x: is also in a.yaml:1, which is in force; remove one of them",
    ]);
    state.remove("a.yaml");
    expect(said(state.takeBatch())).toEqual(["x=2"]);
    expect(state.takeBatch()).toBeUndefined();
  });

  test("twice in one file, the first is in force", () => {
    const state = new DirectoryState();
    write(state, "a.yaml", `${entry("x", 1)}---\n${entry("x", 2)}`);
    const batch = state.takeBatch();
    expect(said(batch)).toEqual(["x=1"]);
    expect(problems(batch)).toEqual([
      "error: a.yaml:10: WorkloadEntry shop/x: is also in a.yaml:1, which is in force; remove one of them",
    ]);
  });

  test("a last good form gives way to a good one in any file", () => {
    const state = new DirectoryState();
    write(state, "a.yaml", entry("x", 1));
    state.takeBatch();
    write(state, "a.yaml", entry("x", "heavy"));
    expect(said(state.takeBatch())).toEqual([]);
    write(state, "b.yaml", entry("x", 2));
    expect(said(state.takeBatch())).toEqual(["x=2"]);
    state.remove("b.yaml");
    expect(said(state.takeBatch())).toEqual(["x=1"]);
    state.remove("a.yaml");
    expect(said(state.takeBatch())).toEqual(["-x"]);
  });

  test("a change of lines or comments is no change of the object, but of where problems are", () => {
    const state = new DirectoryState();
    write(state, "a.yaml", `${entry("x", 1)}---\n${entry("y", -1)}`);
    expect(problems(state.takeBatch())).toEqual([
      expect.stringMatching(/^error: a\.yaml:17: WorkloadEntry shop\/y: spec\.weight/) as string,
    ]);
    write(state, "a.yaml", `# a comment\n${entry("x", 1)}# another\n---\n${entry("y", -1)}`);
    const batch = state.takeBatch();
    expect(said(batch)).toEqual([]);
    expect(problems(batch)).toEqual([
      expect.stringMatching(/^error: a\.yaml:19: WorkloadEntry shop\/y: spec\.weight/) as string,
    ]);
  });
});

describe("a version that may be half written", () => {
  const whole = `${entry("x", 1)}---\n${entry("y", 1)}`;
  const before = readFileState("a.yaml", whole, undefined);

  test.each([
    ["lost an object", entry("x", 1), true],
    ["is empty", "", true],
    ["stops within a line", whole.slice(0, -3), true],
    ["does not parse", `${whole}---\nkind: [\n`, true],
    ["is refused", whole.replace("weight: 1", "weight: one"), true],
    ["grew", `${whole}---\n${entry("z", 1)}`, false],
    ["changed a value", whole.replace("weight: 1", "weight: 7"), false],
  ])("%s", (_, text, doubtful) =>
    expect(isDoubtful(text, readFileState("a.yaml", text, before), before)).toBe(doubtful),
  );

  test("a new file is doubted when it is empty", () => {
    expect(isDoubtful("", readFileState("a.yaml", "", undefined), undefined)).toBe(true);
    expect(isDoubtful(whole, before, undefined)).toBe(false);
  });
});

test("paths are ordered by their parts", () => {
  const paths = ["b.yaml", "a/z.yaml", "a-b.yaml", "a/b/c.yaml", "a.yaml", "A.yaml"];
  expect(paths.sort(comparePaths)).toEqual([
    "A.yaml",
    "a/b/c.yaml",
    "a/z.yaml",
    "a-b.yaml",
    "a.yaml",
    "b.yaml",
  ]);
});
