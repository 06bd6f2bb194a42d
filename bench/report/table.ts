import type { RawRuns, Round } from "./raw.js";
import { type Bound, type Row, rows } from "./rows.js";
import { type Spread, spread } from "./statistics.js";

const ours = "meltemi";
const baseline = "direct";

/** The rounds in which everything counts: a void number of one contender spoils the comparison of all. */
export function countedRounds(raw: RawRuns): readonly Round[] {
  return raw.rounds.filter(({ contenders }) =>
    Object.values(contenders).every(({ voided }) => voided.length === 0),
  );
}

const contendersOf = (raw: RawRuns): readonly string[] => Object.keys(raw.rounds[0]?.contenders ?? {});

function spreadOf(row: Row, rounds: readonly Round[], contender: string): Spread | undefined {
  const values = rounds.flatMap(({ contenders }) => {
    const own = contenders[contender]?.values;
    const direct = contenders[baseline]?.values;
    const value = own && direct ? row.value(own, direct) : undefined;
    return value === undefined || Number.isNaN(value) ? [] : [value];
  });
  return values.length === 0 ? undefined : spread(values);
}

export type Verdict = "met" | "missed" | "not measured";

/** Whether Meltemi's median keeps a bound, and the bound in words. */
function judge(
  row: Row,
  bound: Bound,
  medians: ReadonlyMap<string, number>,
): { readonly verdict: Verdict; readonly text: string } {
  const sign = row.better === "more" ? "≥" : "≤";
  const own = medians.get(ours);
  const keeps = (value: number): boolean =>
    row.better === "more" ? value >= bound.limit : value <= bound.limit;
  const verdictOf = (value: number | undefined): Verdict =>
    value === undefined ? "not measured" : keeps(value) ? "met" : "missed";
  if (bound.type === "absolute") return { verdict: verdictOf(own), text: `${sign} ${bound.limit}` };
  const peer = medians.get(bound.peer);
  const value = own === undefined || peer === undefined ? undefined : own / peer;
  return { verdict: verdictOf(value), text: `${sign} ${bound.limit}× ${bound.peer}` };
}

const marks: Readonly<Record<Verdict, string>> = { met: "✓", missed: "✗", "not measured": "?" };

export interface Judged {
  readonly title: string;
  readonly cells: readonly string[];
  readonly measured: boolean;
  readonly floor: Verdict | undefined;
}

function judged(row: Row, rounds: readonly Round[], contenders: readonly string[]): Judged {
  const spreads = new Map(contenders.map((name) => [name, spreadOf(row, rounds, name)] as const));
  const medians = new Map(
    [...spreads].flatMap(([name, each]) => (each === undefined ? [] : [[name, each.median] as const])),
  );
  const number = (value: number): string => value.toFixed(row.digits);
  const values = contenders.map((name) => {
    const each = spreads.get(name);
    return each === undefined ? "–" : `${number(each.median)} (${number(each.min)}–${number(each.max)})`;
  });
  const own = medians.get(ours);
  const ratios = contenders
    .filter((name) => name !== ours)
    .map((name) => {
      const other = medians.get(name);
      return own === undefined || other === undefined ? "–" : `${(own / other).toFixed(2)}×`;
    });
  const bounds = [row.floor, row.target].map((bound) => bound && judge(row, bound, medians));
  return {
    title: row.title,
    cells: [
      ...values,
      ...ratios,
      ...bounds.map((each) => (each ? `${marks[each.verdict]} ${each.text}` : "")),
    ],
    measured: own !== undefined,
    floor: bounds[0]?.verdict,
  };
}

/** All rows of the table, with the verdicts on their floors. */
export function judgeAll(raw: RawRuns): readonly Judged[] {
  const rounds = countedRounds(raw);
  return rows.map((row) => judged(row, rounds, contendersOf(raw))).filter(({ measured }) => measured);
}

/** No round is void and no measured floor is missed. */
export function passes(raw: RawRuns): boolean {
  return (
    raw.rounds.length > 0 &&
    countedRounds(raw).length === raw.rounds.length &&
    judgeAll(raw).every(({ floor }) => floor !== "missed")
  );
}

function head(raw: RawRuns): string[] {
  const { machine, programs, settings, rounds } = raw;
  const loads = rounds.map(({ loadAverage }) => (loadAverage[0] ?? Number.NaN).toFixed(1)).join(", ");
  return [
    `# L4, ${raw.startedAt.slice(0, 10)}, commit ${machine.commit.slice(0, 12)}`,
    "",
    `- ${machine.cores} cores of ${machine.cpu}, ${machine.memoryGb} GB, Linux ${machine.kernel}, Node ${machine.node}`,
    ...(machine.uncommitted.length > 0
      ? [`- with uncommitted changes in ${machine.uncommitted.join(", ")}`]
      : []),
    `- ${rounds.length} rounds of ${String(settings["seconds"])} s for each measurement, all contenders in turn; load average before each round: ${loads}`,
    ...Object.entries(programs).map(
      ([name, { version, sha256 }]) => `- ${name}: ${version}, sha256 ${sha256.slice(0, 16)}`,
    ),
  ];
}

function voids(raw: RawRuns): string[] {
  return raw.rounds.flatMap(({ round, contenders }) =>
    Object.entries(contenders).flatMap(([name, { voided }]) =>
      voided.map((reason) => `- round ${round + 1} is void: ${name}: ${reason}`),
    ),
  );
}

/** The table of the raw runs as Markdown: medians with their ranges, ratios of medians, floor and target. */
export function renderTable(raw: RawRuns): string {
  const contenders = contendersOf(raw);
  const columns = [
    "",
    ...contenders,
    ...contenders.filter((name) => name !== ours).map((name) => `to ${name}`),
    "floor",
    "target",
  ];
  const line = (cells: readonly string[]): string => `| ${cells.join(" | ")} |`;
  const missed = judgeAll(raw).filter(({ floor }) => floor === "missed");
  return [
    ...head(raw),
    ...voids(raw),
    "",
    "Medians (smallest–largest); “to” is Meltemi's median divided by the other's.",
    "",
    line(columns),
    line(columns.map((_, index) => (index === 0 ? "---" : "---:"))),
    ...judgeAll(raw).map(({ title, cells }) => line([title, ...cells])),
    "",
    missed.length === 0
      ? "Every floor that was measured is met."
      : `Below the floor: ${missed.map(({ title }) => title).join("; ")}.`,
    "",
  ].join("\n");
}
