import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { stringify } from "yaml";
import { checkObjects } from "../../../src/domain/checks/checks.js";
import { defaultEnrolmentRules } from "../../../src/domain/enrolment.js";
import type { MeshObject } from "../../../src/domain/objects.js";
import { formatProblem } from "../../../src/domain/problem.js";
import type { LocatedObject } from "../../../src/sources/decode/text.js";
import { decodeText } from "../../../src/sources/decode/text.js";

/**
 * Golden tables: each file of `input/` with what its objects become and every problem, and each of
 * `checks/` with what is wrong between its objects. After a wanted change: `npx vitest run --project unit
 * test/golden/decode -u`, and read the difference.
 */
const expected = join(import.meta.dirname, "expected");

function read(directory: string, file: string): readonly LocatedObject[] {
  const text = readFileSync(join(import.meta.dirname, directory, file), "utf8");
  return decodeText(text, file, { origin: "files" }).objects;
}

/** Maps and undefined as a person would write them. */
function plain(value: unknown): unknown {
  if (value instanceof Map)
    return Object.fromEntries([...value].map(([key, item]) => [String(key), plain(item)]));
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value).filter(([, item]) => item !== undefined);
  return Object.fromEntries(entries.map(([key, item]) => [key, plain(item)]));
}

function table(objects: readonly LocatedObject[]): string {
  const rows = objects.map(({ line, decoded }) => ({
    line,
    outcome: decoded.outcome,
    problems: decoded.problems.map(formatProblem),
    ...(decoded.outcome === "understood" && { object: plain(decoded.object) }),
  }));
  return stringify(rows, { lineWidth: 0, aliasDuplicateObjects: false });
}

describe("decode", () => {
  test.each(readdirSync(join(import.meta.dirname, "input")))("%s", async (file) => {
    await expect(table(read("input", file))).toMatchFileSnapshot(join(expected, file));
  });
});

describe("checks", () => {
  test.each(readdirSync(join(import.meta.dirname, "checks")))("%s", async (file) => {
    const objects: MeshObject[] = [];
    for (const { decoded } of read("checks", file)) {
      expect(
        decoded.outcome,
        formatProblem(decoded.problems[0] ?? { severity: "error", path: "", message: file }),
      ).toBe("understood");
      if (decoded.outcome === "understood") objects.push(decoded.object);
    }
    const problems = checkObjects(objects, {
      rootNamespaces: ["istio-system", "meltemi-system"],
      trustDomain: "cluster.local",
      enrolment: defaultEnrolmentRules,
      standalone: file.startsWith("standalone"),
    });
    const text = stringify(problems.map(formatProblem), { lineWidth: 0 });
    await expect(text).toMatchFileSnapshot(join(expected, `checks-${file}`));
  });
});
