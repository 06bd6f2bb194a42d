import { existsSync, readFileSync, readdirSync, statSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";

import { describe, expect, it } from "vitest";

const root = resolve(dirname(fileURLToPath(import.meta.url)), "../../..");

function markdownUnder(directory: string): string[] {
  return readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) return markdownUnder(path);
    return entry.name.endsWith(".md") ? [path] : [];
  });
}

const documents = [join(root, "README.md"), ...markdownUnder(join(root, "docs"))].map((path) => ({
  name: relative(root, path),
  path,
  text: readFileSync(path, "utf8"),
}));

/** Whether a Rust source defines `symbol`, as an item, a method, a variant's type or a test. */
function definedInRust(source: string, symbol: string): boolean {
  return new RegExp(
    `^\\s*(?:pub(?:\\([a-z]+\\))?\\s+)?(?:default\\s+)?(?:const\\s+)?(?:async\\s+)?(?:unsafe\\s+)?` +
      `(?:fn|struct|enum|trait|type|const|static|mod)\\s+${symbol}\\b`,
    "m",
  ).test(source);
}

/** Whether a TypeScript source defines `symbol`, as an item, a local function or a method. */
function definedInTypeScript(source: string, symbol: string): boolean {
  const item = new RegExp(
    `^\\s*(?:export\\s+)?(?:default\\s+)?(?:abstract\\s+)?(?:async\\s+)?` +
      `(?:function\\*?|class|const|let|interface|type|enum)\\s+${symbol}\\b`,
    "m",
  );
  const method = new RegExp(
    `^\\s+(?:(?:public|private|protected|static|override|readonly|async|get|set)\\s+)*` +
      `[#*]*${symbol}\\s*(?:<[^>(]*>)?\\([^;]*?\\)\\s*(?::[^;{=]+)?\\{`,
    "m",
  );
  return item.test(source) || method.test(source);
}

function defines(path: string, source: string, symbol: string): boolean {
  const name = symbol.replace(/[.*+?^${}()|[\]\\]/gu, "\\$&");
  return path.endsWith(".rs") ? definedInRust(source, name) : definedInTypeScript(source, name);
}

/** The text without fenced blocks: those hold commands and output, not links. */
function prose(text: string): string {
  return text.replace(/^```[\s\S]*?^```$/gmu, "");
}

const reference = /`((?:src|native|demo|bench|scripts|test)\/[\w./-]+\.(?:rs|ts|mjs|js))#(\w+)`/gu;
const path = /`((?:src|native|demo|bench|scripts|test|docs|proto)\/[\w./-]+\.\w+)(?:#\w+)?`/gu;

describe("references from the documents into the code", () => {
  it("are many enough for the search to be believed", () => {
    const found = documents.flatMap(({ text }) => [...text.matchAll(reference)]);
    expect(found.length).toBeGreaterThan(100);
  });

  it.each(documents)("$name names only symbols that are defined where it says", ({ text }) => {
    const missing = [...text.matchAll(reference)].flatMap(([, file = "", symbol = ""]) => {
      const absolute = join(root, file);
      if (!existsSync(absolute)) return [`${file} does not exist`];
      return defines(file, readFileSync(absolute, "utf8"), symbol)
        ? []
        : [`${file} does not define ${symbol}`];
    });
    expect(missing).toEqual([]);
  });

  it.each(documents)("$name names only files that exist", ({ text }) => {
    const missing = [...text.matchAll(path)]
      .map(([, file = ""]) => file)
      .filter((file) => !existsSync(join(root, file)));
    expect(missing).toEqual([]);
  });

  it("are told from names that are only mentioned", () => {
    expect(definedInRust("    handle(1);\n// fn handle", "handle")).toBe(false);
    expect(definedInRust("pub(crate) async fn handle<T>(", "handle")).toBe(true);
    expect(definedInTypeScript("  await this.apply(x);\n", "apply")).toBe(false);
    expect(definedInTypeScript("  async #apply(x: number): Promise<void> {", "apply")).toBe(true);
  });
});

function sourcesUnder(directory: string): string[] {
  return readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) return ["node_modules", "target"].includes(entry.name) ? [] : sourcesUnder(path);
    return /\.(?:rs|ts|mjs|proto)$/u.test(entry.name) ? [path] : [];
  });
}

describe("references from the code into the documents", () => {
  const cited = ["src", "native", "proto", "demo", "bench", "interop", "scripts", "test"]
    .flatMap((directory) => sourcesUnder(join(root, directory)))
    .flatMap((path) =>
      [...readFileSync(path, "utf8").matchAll(/\bdocs\/[\w./-]+\.md\b/gu)].map(([document]) => ({
        source: relative(root, path),
        document,
      })),
    );

  it("name only documents that exist", () => {
    expect(cited.length).toBeGreaterThan(20);
    expect(cited.filter(({ document }) => !existsSync(join(root, document)))).toEqual([]);
  });
});

/** Headings as a renderer turns them into anchors. */
function anchors(text: string): Set<string> {
  return new Set(
    [...prose(text).matchAll(/^#+\s+(.+)$/gmu)].map(([, heading = ""]) =>
      heading
        .toLowerCase()
        .replace(/[^\p{Letter}\p{Number}\s_-]/gu, "")
        .trim()
        .replace(/\s/gu, "-"),
    ),
  );
}

describe("links in the documents", () => {
  it.each(documents)("$name links only to what is there", ({ path: from, text }) => {
    const broken = [...prose(text).matchAll(/\]\(([^)\s]+)\)/gu)]
      .map(([, target = ""]) => target)
      .filter((target) => !/^[a-z]+:/u.test(target))
      .filter((target) => {
        const [file = "", anchor] = target.split("#");
        const absolute = file === "" ? from : resolve(dirname(from), file);
        if (!existsSync(absolute)) return true;
        if (anchor === undefined || statSync(absolute).isDirectory()) return false;
        return !anchors(readFileSync(absolute, "utf8")).has(anchor);
      });
    expect(broken).toEqual([]);
  });
});

describe("commands in the documents", () => {
  const scripts = Object.keys(
    (
      JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as {
        scripts: Record<string, string>;
      }
    ).scripts,
  );
  const cli = readFileSync(join(root, "src/main/cli.ts"), "utf8");
  const commands = [...cli.matchAll(/\b(?:command|reading)\(\s*"([\w-]+)/gu)].map(([, name = ""]) => name);
  it.each(documents)("$name runs only npm scripts that exist", ({ text }) => {
    const unknown = [...text.matchAll(/\bnpm run ([\w:-]+)/gu)]
      .map(([, script = ""]) => script)
      .filter((script) => !scripts.includes(script));
    expect(unknown).toEqual([]);
  });

  it.each(documents)("$name runs only commands that exist", ({ text }) => {
    const unknown = [...text.matchAll(/(?:bin\/|`|^)meltemi ([a-z][\w-]*)/gmu)]
      .map(([, command = ""]) => command)
      .filter((command) => !commands.includes(command));
    expect(unknown).toEqual([]);
  });
});

describe("tests that the documents name by title", () => {
  it.each(documents)("$name quotes only titles that exist", ({ text }) => {
    const missing = [...text.matchAll(/`([\w./-]+\.test\.ts)`((?:,? "[^"]+")+)/gu)].flatMap(
      ([, file = "", titles = ""]) => {
        const source = readFileSync(join(root, file), "utf8");
        return [...titles.matchAll(/"([^"]+)"/gu)]
          .map(([, title = ""]) => title)
          .filter((title) => !source.includes(`"${title}"`));
      },
    );
    expect(missing).toEqual([]);
  });
});
