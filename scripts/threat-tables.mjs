// The tables of docs/threat-model.md that come from the last run of the suites in test/netns/capture.
// usage: node scripts/threat-tables.mjs [--check]
// --check compares what is claimed (rows, who stops them, what came through), not times and counts.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../", import.meta.url));
const documentPath = join(root, "docs/threat-model.md");

/**
 * @typedef {{ attack: string, from: string, family: 4 | 6, stoppedBy: string, attempted: number, unit: string, cameThrough: number, counted: string, without: number }} AttackRow
 * @typedef {{ attack: string, from: string, family: 4 | 6, attempted: number, cameThrough: number, without: number }} WeakerRow
 * @typedef {{ fault: string, mode: string, attempted: number, ok: number, plaintextBytes: number, serviceAfterMs?: number, note?: string }} FaultRow
 * @typedef {{ event: string, pods: number, attempted: number, ok: number, plaintextBytes: number, serviceAfterMs?: number }} StartRow
 * @typedef {"attacks" | "weaker" | "faults" | "reboot" | "crowd"} Suite
 */

const cell = (/** @type {string | number} */ value) => String(value).replaceAll("|", "\\|");

/** @param {readonly string[]} head @param {readonly (readonly (string | number)[])[]} rows */
const table = (head, rows) =>
  [head, head.map(() => "---"), ...rows].map((row) => `| ${row.map(cell).join(" | ")} |`).join("\n");

/** @template T @param {readonly T[]} rows @param {(row: T) => string} key @returns {Map<string, T[]>} in the order of their first */
function grouped(rows, key) {
  const groups = new Map();
  for (const row of rows) groups.set(key(row), [...(groups.get(key(row)) ?? []), row]);
  return groups;
}

const sum = (/** @type {readonly number[]} */ numbers) => numbers.reduce((total, one) => total + one, 0);
const seconds = (/** @type {number} */ ms) => (ms < 100 ? "none" : `${(ms / 1000).toFixed(1)} s`);

/** @param {readonly AttackRow[]} rows */
function attacksTable(rows) {
  const lines = [...grouped(rows, ({ attack }) => attack).values()].map((same) => {
    const [{ attack, from, stoppedBy, unit }] = /** @type {[AttackRow]} */ (same);
    const families = same.map(({ family }) => family).sort();
    const counted = [...new Set(same.map((row) => row.counted))].filter((one) => one !== "").sort();
    return [
      attack,
      from,
      families.map((family) => `IPv${family}`).join(", "),
      counted.length === 0 ? stoppedBy : `${stoppedBy}: ${counted.map((one) => `\`${one}\``).join(", ")}`,
      sum(same.map(({ attempted }) => attempted)),
      sum(same.map(({ cameThrough }) => cameThrough)),
      `${sum(same.map(({ without }) => without))} ${unit}`,
    ];
  });
  return table(["attempt", "by", "over", "stopped by", "attempts", "came through", "without it"], lines);
}

/** @param {readonly WeakerRow[]} rows */
function weakerTable(rows) {
  const lines = [...grouped(rows, ({ attack }) => attack).values()].map((same) => {
    const [{ attack, from }] = /** @type {[WeakerRow]} */ (same);
    const families = same.map(({ family }) => family).sort();
    const through = same.filter(({ cameThrough }) => cameThrough > 0).map(({ family }) => family);
    const verdict =
      through.length === 0
        ? "yes"
        : through.length === same.length
          ? "**no**"
          : `**not over IPv${through.join(", IPv")}**`;
    return [
      attack,
      from,
      families.map((family) => `IPv${family}`).join(", "),
      verdict,
      sum(same.map(({ attempted }) => attempted)),
      sum(same.map(({ cameThrough }) => cameThrough)),
      sum(same.map(({ without }) => without)),
    ];
  });
  return table(
    [
      "attempt",
      "by",
      "over",
      "holds",
      "attempts",
      "bytes that came through",
      "without guard and redirection",
    ],
    lines,
  );
}

/** @param {readonly StartRow[]} rows */
function startsTable(rows) {
  return table(
    ["what happens", "pods", "connections tried", "served", "readable bytes on the link", "service after"],
    rows.map(({ event, pods, attempted, ok, plaintextBytes, serviceAfterMs }) => [
      event,
      pods,
      attempted,
      ok,
      plaintextBytes,
      serviceAfterMs === undefined ? "" : seconds(serviceAfterMs),
    ]),
  );
}

/** @param {readonly FaultRow[]} rows */
function faultsTable(rows) {
  const lines = rows.map(({ fault, mode, attempted, ok, plaintextBytes, serviceAfterMs, note }) => [
    note ? `${fault} (${note})` : fault,
    mode,
    attempted,
    ok,
    plaintextBytes,
    serviceAfterMs === undefined ? "" : seconds(serviceAfterMs),
  ]);
  return table(
    [
      "what goes wrong",
      "mode",
      "connections tried",
      "served",
      "readable bytes on the link",
      "longest time without service",
    ],
    lines,
  );
}

/** Lines without the numbers of one run: only a 0 stays, because nothing coming through is the claim. */
export const structureOf = (/** @type {string} */ text) =>
  text
    .split("\n")
    .filter((line) => line.startsWith("| "))
    .map((line) =>
      line
        .split(" | ")
        .map((part, index) =>
          index === 0
            ? part
            : part.replace(/\bnone\b|\b[0-9.]+ s\b/g, "T").replace(/\b[1-9]\d*\b(?!`)/g, "N"),
        )
        .join(" | "),
    )
    .join("\n");

/** @type {Record<Suite, (rows: any) => string>} */
const tables = {
  attacks: attacksTable,
  weaker: weakerTable,
  faults: faultsTable,
  reboot: startsTable,
  crowd: startsTable,
};

/** Where each suite is. @type {Record<Suite, string>} */
const files = {
  attacks: "capture/attacks",
  weaker: "capture/weaker-guard",
  faults: "capture/faults",
  reboot: "capture/reboot",
  crowd: "scale/five-hundred-pods",
};

const sections = /** @type {readonly Suite[]} */ (Object.keys(tables));
const marks = (/** @type {string} */ section) => ({
  begin: `<!-- generated by scripts/threat-tables.mjs: ${section} -->`,
  end: `<!-- end: ${section} -->`,
});

/** @param {string} text @param {string} section @returns {[string, string, string]} before, inside, after */
function split(text, section) {
  const { begin, end } = marks(section);
  const [from, to] = [text.indexOf(begin), text.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`docs/threat-model.md has no section "${begin}" … "${end}"`);
  return [text.slice(0, from + begin.length), text.slice(from + begin.length, to), text.slice(to)];
}

/** @param {Suite} section @param {any} rows */
export const render = (section, rows) => tables[section](rows);

/** The table that the document has now. @param {Suite} section */
export const documented = (section) => split(readFileSync(documentPath, "utf8"), section)[1];

/** @param {Suite} section */
function lastRun(section) {
  try {
    return JSON.parse(readFileSync(join(root, `.cache/threat-model/${section}.json`), "utf8")).rows;
  } catch (error) {
    throw new Error(
      `no results of ${section}: run node scripts/sandbox.mjs node_modules/.bin/vitest run --project netns test/netns/${files[section]}.test.ts`,
      { cause: error },
    );
  }
}

/** @param {boolean} check */
function main(check) {
  let text = readFileSync(documentPath, "utf8");
  for (const section of sections) {
    const [before, inside, after] = split(text, section);
    const fresh = render(section, lastRun(section));
    if (!check) text = `${before}\n\n${fresh}\n\n${after}`;
    else if (structureOf(inside) !== structureOf(fresh)) {
      process.stderr.write(
        `docs/threat-model.md, ${section}: not what the last run found; run node scripts/threat-tables.mjs\n`,
      );
      process.exitCode = 1;
    }
  }
  if (!check) writeFileSync(documentPath, text);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    main(process.argv.includes("--check"));
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
    process.exitCode = 1;
  }
}
