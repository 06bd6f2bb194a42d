import type { RawRuns, Round } from "../report/raw.js";
import { type Spread, spread } from "../report/statistics.js";

/** What issue 4 asks of a mode's median: an amount, or a ratio to another contender's. */
type Target =
  | { readonly type: "most" | "below"; readonly limit: number }
  | { readonly type: "ratio"; readonly of: "bpf"; readonly to: "iptables"; readonly least: number }
  | { readonly type: "of_direct"; readonly least: number };

interface Line {
  readonly title: string;
  readonly key: string;
  readonly digits: number;
  readonly target?: Target;
}

const lines: readonly Line[] = [
  {
    title: "new connections/s, one request each",
    key: "new_per_s",
    digits: 0,
    target: { type: "ratio", of: "bpf", to: "iptables", least: 1.25 },
  },
  { title: "– p50 ms", key: "new_p50_ms", digits: 3 },
  { title: "– p99 ms", key: "new_p99_ms", digits: 3 },
  { title: "– data plane's CPU per connection, µs", key: "new_proxy_cpu_us", digits: 0 },
  { title: "– the machine's CPU per connection, µs", key: "new_machine_cpu_us", digits: 0 },
  { title: "– conntrack entries in the pod afterwards", key: "conntrack_entries", digits: 0 },
  { title: "bulk through the data plane, Gbit/s", key: "captured_gbit_s", digits: 2 },
  { title: "– the machine's CPU-s per GB", key: "captured_cpu_s_per_gb", digits: 2 },
  {
    title: "bulk past it (guard alone), Gbit/s",
    key: "excluded_gbit_s",
    digits: 2,
    target: { type: "of_direct", least: 0.97 },
  },
  { title: "– the machine's CPU-s per GB", key: "excluded_cpu_s_per_gb", digits: 3 },
  {
    title: "one pod: asked to first captured connection, ms",
    key: "first_connection_ms",
    digits: 0,
    target: { type: "below", limit: 50 },
  },
  { title: "many pods at once", key: "many_pods", digits: 0 },
  { title: "– all enrolled, s", key: "many_enrolled_s", digits: 1, target: { type: "below", limit: 10 } },
  { title: "– agent's CPU for it, s", key: "many_agent_cpu_s", digits: 1 },
  { title: "– its programs' CPU for it, s", key: "many_programs_cpu_s", digits: 1 },
  { title: "– data plane's CPU for it, s", key: "many_proxy_cpu_s", digits: 1 },
  {
    title: "– agent's memory, KB per pod",
    key: "many_agent_kb_per_pod",
    digits: 0,
    target: { type: "below", limit: 40 },
  },
  { title: "– agent's descriptors per pod", key: "many_fds_per_pod", digits: 1 },
  {
    title: "– agent at rest, % of a core",
    key: "many_rest_percent",
    digits: 1,
    target: { type: "below", limit: 2 },
  },
];

const conntrackOfBpf: Target = { type: "most", limit: 0 };

const counted = (raw: RawRuns): readonly Round[] =>
  raw.rounds.filter(({ contenders }) => Object.values(contenders).every(({ voided }) => voided.length === 0));

function spreadOf(rounds: readonly Round[], contender: string, key: string): Spread | undefined {
  const values = rounds.flatMap(({ contenders }) => {
    const value = (contenders[contender]?.values ?? {})[key];
    return value === undefined ? [] : [value];
  });
  return values.length === 0 ? undefined : spread(values);
}

interface Verdict {
  readonly kept: boolean;
  readonly text: string;
}

/** Whether a contender's median keeps what is asked of it; undefined where nothing is. */
function judge(
  line: Line,
  contender: string,
  medianOf: (name: string) => number | undefined,
): Verdict | undefined {
  const own = medianOf(contender);
  const target = line.key === "conntrack_entries" && contender === "bpf" ? conntrackOfBpf : line.target;
  if (own === undefined || target === undefined || contender === "direct") return undefined;
  switch (target.type) {
    case "most":
      return { kept: own <= target.limit, text: `≤ ${target.limit}` };
    case "below":
      return { kept: own < target.limit, text: `< ${target.limit}` };
    case "of_direct": {
      const direct = medianOf("direct");
      if (direct === undefined) return undefined;
      return {
        kept: own >= target.least * direct,
        text: `${(own / direct).toFixed(3)}× direct, ≥ ${target.least}×`,
      };
    }
    case "ratio": {
      const other = medianOf(target.to);
      if (contender !== target.of || other === undefined) return undefined;
      return {
        kept: own >= target.least * other,
        text: `${(own / other).toFixed(2)}× ${target.to}, ≥ ${target.least}×`,
      };
    }
  }
}

const contendersOf = (raw: RawRuns): readonly string[] => Object.keys(raw.rounds[0]?.contenders ?? {});

function rowOf(
  raw: RawRuns,
  line: Line,
): { readonly cells: readonly string[]; readonly missed: readonly string[] } {
  const rounds = counted(raw);
  const medianOf = (name: string): number | undefined => spreadOf(rounds, name, line.key)?.median;
  const number = (value: number): string => value.toFixed(line.digits);
  const missed: string[] = [];
  const cells = contendersOf(raw).map((contender) => {
    const each = spreadOf(rounds, contender, line.key);
    if (each === undefined) return "–";
    const verdict = judge(line, contender, medianOf);
    if (verdict?.kept === false) missed.push(`${contender}: ${line.title} (${verdict.text})`);
    const mark = verdict === undefined ? "" : ` ${verdict.kept ? "✓" : "✗"} ${verdict.text}`;
    return `${number(each.median)} (${number(each.min)}–${number(each.max)})${mark}`;
  });
  return { cells: [line.title, ...cells], missed };
}

/** No round is void, and every target that was measured is met. */
export function capturePasses(raw: RawRuns): boolean {
  return (
    raw.rounds.length > 0 &&
    counted(raw).length === raw.rounds.length &&
    lines.every((line) => rowOf(raw, line).missed.length === 0)
  );
}

function head({ startedAt, machine, rounds, settings, programs }: RawRuns): string[] {
  const loads = rounds.map(({ loadAverage }) => (loadAverage[0] ?? Number.NaN).toFixed(1)).join(", ");
  return [
    `# Capture, ${startedAt.slice(0, 10)}, commit ${machine.commit.slice(0, 12)}`,
    "",
    `- ${machine.cores} cores of ${machine.cpu}, ${machine.memoryGb} GB, Linux ${machine.kernel}, Node ${machine.node}`,
    ...(machine.uncommitted.length > 0
      ? [`- with uncommitted changes in ${machine.uncommitted.join(", ")}`]
      : []),
    `- ${rounds.length} rounds of ${String(settings["seconds"])} s for each measurement, all modes in turn; load average before each round: ${loads}`,
    ...Object.entries(programs).map(
      ([name, { version, sha256 }]) => `- ${name}: ${version}, sha256 ${sha256.slice(0, 16)}`,
    ),
    ...rounds.flatMap(({ round, contenders }) =>
      Object.entries(contenders).flatMap(([name, { voided }]) =>
        voided.map((reason) => `- round ${round + 1} is void: ${name}: ${reason}`),
      ),
    ),
  ];
}

/** The table of the raw runs as Markdown: medians with their ranges, and what is asked of them. */
export function renderCaptureTable(raw: RawRuns): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(" | ")} |`;
  const columns = ["", ...contendersOf(raw)];
  const rows = lines.map((each) => rowOf(raw, each));
  const missed = rows.flatMap((row) => row.missed);
  return [
    ...head(raw),
    "",
    "Medians (smallest–largest), and the target where there is one. A captured client connects to a server outside of the mesh, on the same node.",
    "",
    line(columns),
    line(columns.map((_, index) => (index === 0 ? "---" : "---:"))),
    ...rows.map(({ cells }) => line(cells)),
    "",
    missed.length === 0 ? "Every target is met." : `Missed: ${missed.join("; ")}.`,
    "",
  ].join("\n");
}
