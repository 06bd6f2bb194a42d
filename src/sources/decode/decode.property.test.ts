import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { describe, expect, test } from "vitest";
import { parseAllDocuments, parseDocument } from "yaml";
import { SeededRandom } from "../../../test/helpers/seeded-random.js";
import { decodeObject, type Decoded } from "./decode.js";
import { parseChunk, splitChunks } from "./documents.js";
import { isMapping } from "./fields.js";
import { readPlainYaml } from "./plain-yaml.js";
import { decodeText } from "./text.js";

const golden = resolve(import.meta.dirname, "../../../test/golden/decode");
const sharedData =
  process.env["MELTEMI_SHARED_DATA"] ?? resolve(import.meta.dirname, "../../../../shared/data");
/** More rounds for a longer search by hand. */
const rounds = Number(process.env["MELTEMI_FUZZ_ROUNDS"] ?? "1000");

/** Repeatable choices. */
class Dice {
  readonly #random: SeededRandom;

  constructor(seed: number) {
    this.#random = new SeededRandom(seed);
  }

  below(limit: number): number {
    return Math.floor(this.#random.uniform() * limit);
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)]!;
  }
}

function yamlFiles(directory: string): string[] {
  if (!existsSync(directory)) return [];
  return readdirSync(directory, { recursive: true, encoding: "utf8" })
    .filter((file) => /\.ya?ml$/.test(file))
    .map((file) => join(directory, file));
}

const goldenTexts = [...yamlFiles(join(golden, "input")), ...yamlFiles(join(golden, "checks"))].map((file) =>
  readFileSync(file, "utf8"),
);
const texts = [...goldenTexts, ...yamlFiles(sharedData).map((file) => readFileSync(file, "utf8"))];

const fragments = [
  "---\n",
  "\n",
  "  ",
  " ",
  ":",
  ": ",
  "- ",
  "#",
  " #",
  "'",
  '"',
  "{",
  "}",
  "[",
  "]",
  "|",
  ">",
  "&a",
  "*a",
  "!!",
  "\t",
  "\r\n",
  "...",
  "null",
  "~",
  "true",
  "0x1",
  "1e3",
  "?",
  "%",
  "\\",
  "é",
  "\u0000",
  "\uFEFF",
  "a",
  "7",
  "key: value\n",
  "<<: ",
];

function mutated(text: string, dice: Dice): string {
  let result = text;
  for (let edits = 1 + dice.below(3); edits > 0; edits--) {
    const at = dice.below(result.length + 1);
    const cut = dice.below(4) === 0 ? dice.below(20) : 0;
    result = result.slice(0, at) + dice.pick(fragments) + result.slice(at + cut);
  }
  return result;
}

/** What must hold for every object, whatever was read. */
function expectAccounted(decoded: Decoded): void {
  const errors = decoded.problems.filter(({ severity }) => severity === "error");
  switch (decoded.outcome) {
    case "understood":
      expect(errors).toEqual([]);
      break;
    case "refused":
      expect(errors.length).toBeGreaterThan(0);
      break;
    case "unsupported":
      expect(errors).toEqual([]);
      expect(decoded.problems.length).toBeGreaterThan(0);
  }
  for (const { message } of decoded.problems) expect(message).not.toBe("");
}

describe("plain YAML", () => {
  /** Where the plain reader answers at all, the full parser gives the same answer and no error. */
  function expectSame(text: string): boolean {
    const plain = readPlainYaml(text);
    if (!plain) return false;
    const documents = parseAllDocuments(text, { logLevel: "silent", merge: true });
    if (!Array.isArray(documents)) throw new Error(`no document: ${JSON.stringify(text)}`);
    expect(documents, text).toHaveLength(1);
    expect(documents[0]?.errors, text).toEqual([]);
    expect(plain.value, text).toEqual(documents[0]?.toJS());
    expect(text.split("\n")[plain.line]?.trim(), text).not.toMatch(/^(#|---|$)/);
    return true;
  }

  test("is read as the full parser reads it, or not at all", () => {
    const chunks = texts.flatMap((text) => splitChunks(text).map((chunk) => chunk.text));
    const plain = chunks.filter(expectSame);
    expect(plain.length).toBeGreaterThan(0);
  });

  test("the same after any edit", () => {
    const dice = new Dice(1);
    const chunks = texts
      .flatMap((text) => splitChunks(text).map((chunk) => chunk.text))
      .filter((text) => readPlainYaml(text));
    let answered = 0;
    for (let round = 0; round < rounds; round++) if (expectSame(mutated(dice.pick(chunks), dice))) answered++;
    expect(answered).toBeGreaterThan(rounds / 20);
  });

  test.each([
    "a: b\n  c\n",
    "a: 'x''y'\n",
    "a: b # c\n",
    "a: yes\n",
    "a: 010\n",
    "a: 1.5\n",
    "a: &x b\n",
    "a:\n\tb: c\n",
    "a: b\na: c\n",
    "a: |\n  b\n",
    "<<: b\n",
    "- - a\n",
    "__proto__: a\n",
    "a: b\r\n",
    "a: [b]\n",
    "1: b\n",
    "a:\n    b: c\n  d: e\n",
  ])("leaves %j to the full parser", (text) => {
    expect(readPlainYaml(text)).toBeUndefined();
  });

  test("reads nested sequences and mappings", () => {
    const text =
      "---\n# c\na:\n- b: 1\n  c:\n  - x\n  -\n".replace("  -\n", "  - z\n") +
      "d:\n  - e:\n      f: \"g: h\"\n    i: '{}'\n    j: {}\nk:\nl: 10.0.0.1\nm: true\n";
    expect(readPlainYaml(text)).toEqual({ value: parseDocument(text).toJS() as unknown, line: 2 });
  });
});

describe("chunks", () => {
  test("hold every document of the text, where the text is right", () => {
    for (const text of texts) {
      const whole = parseAllDocuments(text, { logLevel: "silent", merge: true });
      if (!Array.isArray(whole) || whole.some(({ errors }) => errors.length > 0)) continue;
      const values = whole.map((document) => document.toJS() as unknown).filter((value) => value !== null);
      const parsed = splitChunks(text).flatMap((chunk) => parseChunk(chunk.text));
      expect(parsed.map((document) => document.ok && document.value)).toEqual(values);
    }
  });
});

describe("whatever is written", () => {
  test("every document of a damaged text is accounted for, and nothing is thrown", () => {
    const dice = new Dice(2);
    for (let round = 0; round < rounds; round++) {
      const text = mutated(dice.pick(texts), dice);
      for (const { decoded, line } of decodeText(text, "f.yaml", { origin: "files" }).objects) {
        expectAccounted(decoded);
        expect(line).toBeGreaterThan(0);
      }
    }
  });

  test("noise is read without harm", () => {
    const dice = new Dice(3);
    for (let round = 0; round < rounds; round++) {
      const noise = Array.from({ length: dice.below(60) }, () => dice.pick(fragments)).join("");
      for (const { decoded } of decodeText(noise, "f.yaml", { origin: "files" }).objects)
        expectAccounted(decoded);
    }
  });

  test("a document nested beyond any stack is refused", () => {
    const deep = "[".repeat(200_000);
    const { objects } = decodeText(deep, "f.yaml", { origin: "files" });
    expect(objects.map(({ decoded }) => decoded.outcome)).toEqual(["refused"]);
  });

  const odd: readonly unknown[] = [
    null,
    undefined,
    "",
    "x",
    "*",
    "a/b/c",
    0,
    -1,
    1.5,
    NaN,
    2 ** 60,
    true,
    [],
    [null],
    ["*"],
    {},
    { a: null },
    [[]],
    [{}],
    "10.0.0.1",
    "\u0000",
    Symbol("s"),
    () => 1,
    10n,
  ];

  /** The object with one of its values, at any depth, replaced by an odd one. */
  function damaged(value: unknown, dice: Dice): unknown {
    if (dice.below(6) === 0) return dice.pick(odd);
    if (Array.isArray(value) && value.length > 0) {
      const at = dice.below(value.length);
      return value.map((item: unknown, index) => (index === at ? damaged(item, dice) : item));
    }
    if (!isMapping(value) || Object.keys(value).length === 0) return dice.pick(odd);
    const key = dice.pick(Object.keys(value));
    return { ...value, [dice.below(8) === 0 ? `${key}x` : key]: damaged(value[key], dice) };
  }

  test("an object with any value replaced is understood, not supported or refused with a reason", () => {
    const dice = new Dice(4);
    const objects = goldenTexts
      .flatMap((text) => splitChunks(text).flatMap((chunk) => parseChunk(chunk.text)))
      .flatMap((document) => (document.ok ? [document.value] : []));
    for (let round = 0; round < 2 * rounds; round++) {
      expectAccounted(
        decodeObject(damaged(dice.pick(objects), dice), {
          origin: dice.below(2) === 0 ? "files" : "cluster",
        }),
      );
    }
  });
});
