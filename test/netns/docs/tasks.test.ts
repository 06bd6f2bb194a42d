/** The pages of docs/tasks as a reader follows them: their manifests written, their commands run, their output seen. */
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { execa } from "execa";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { eventually } from "../../../demo/lab/command.js";
import { root, World } from "../../../demo/world.js";

/** One fenced block: a manifest's file, or commands and what they say. */
interface Block {
  readonly language: string;
  readonly info: string;
  readonly text: string;
}

function blocksOf(page: string): readonly Block[] {
  const text = readFileSync(join(root, "docs/tasks", page), "utf8");
  return [...text.matchAll(/^```(\w+) ?([^\n]*)\n([\s\S]*?)^```$/gmu)].map(
    ([, language = "", info = "", body = ""]) => ({ language, info, text: body }),
  );
}

/** What the reader has typed into the shell before: what is set on the first page, and on this one. */
function shellOf(page: string): string {
  return [...blocksOf(first), ...blocksOf(page)]
    .filter(({ language, text }) => language === "sh" && /^\w+(=|\(\))/u.test(text))
    .map(({ text }) => text)
    .join("\n");
}

/** `$ COMMAND` and the lines of its output, which are to be as written; with `like`, but for the numbers. */
function commandsOf({ text, info }: Block): readonly { command: string; output: RegExp }[] {
  return text
    .split(/^\$ /mu)
    .slice(1)
    .map((part) => {
      const [command = "", ...lines] = part.trimEnd().split("\n");
      const pattern = lines
        .map((line) => line.trim().replace(/[.*+?^${}()|[\]\\]/gu, "\\$&"))
        .map((line) => (info === "like" ? line.replace(/\b\d+\b/u, "\\d+") : line))
        .join("\\s+");
      return { command, output: new RegExp(`^\\s*${pattern}\\s*$`, "u") };
    });
}

const world = new World();
const first = "README.md";

/** Follows a page; what it wrote is gone afterwards, also where it did not come to its end. */
async function follow(page: string): Promise<void> {
  const written = blocksOf(page).filter(({ language }) => language === "yaml");
  try {
    await play(page);
  } finally {
    if (page !== first) for (const { info } of written) rmSync(join(world.config, info), { force: true });
  }
}

async function play(page: string): Promise<void> {
  const shell = shellOf(page);
  for (const block of blocksOf(page)) {
    if (block.language === "yaml") await world.apply(block.info, block.text);
    if (block.language !== "console") continue;
    for (const { command, output } of commandsOf(block)) {
      let seen = "";
      await eventually(
        `${page}: ${command}`,
        async () => {
          const { all } = await execa("bash", ["-c", `${shell}\n${command}`], {
            cwd: root,
            all: true,
            reject: false,
          });
          seen = all;
          return output.test(seen);
        },
        { deadlineMs: 10_000, everyMs: 100 },
      ).catch((error: unknown) => {
        throw new Error(`${String(error)}; it said:\n${seen}`, { cause: error });
      });
    }
  }
}

beforeAll(async () => {
  await world.up(() => undefined);
  await follow(first);
}, 90_000);
afterAll(() => world.down(), 60_000);

describe("docs/tasks", () => {
  const pages = [...readFileSync(join(root, "docs/tasks", first), "utf8").matchAll(/\]\((\S+\.md)\)/gu)];

  test("has a page for each task, and each is followed", () => {
    expect(pages.map(([, page]) => page)).toEqual([
      "canary.md",
      "who-may-call.md",
      "require-a-token.md",
      "retry-safely.md",
    ]);
  });

  test.each(pages.map(([, page = ""]) => page))("%s says what happens", follow, 120_000);
});
