import type { RawRuns, Round, Values } from "../report/raw.js";
import { type Spread, spread } from "../report/statistics.js";

/** What issue 6 asks of Meltemi's median: an amount, or a ratio to Envoy's. */
type Target =
  { readonly type: "at_most"; readonly limit: number } | { readonly type: "ratio"; readonly limit: number };

interface Line {
  readonly title: string;
  readonly value: (own: Values, direct: Values) => number | undefined;
  readonly better: "more" | "less";
  readonly digits: number;
  readonly target?: Target;
}

const of =
  (key: string): Line["value"] =>
  (own) =>
    own[key];
const added =
  (key: string): Line["value"] =>
  (own, direct) => {
    const [mine, base] = [own[key], direct[key]];
    return own === direct || mine === undefined || base === undefined ? undefined : mine - base;
  };
const ratio = (limit: number): Target => ({ type: "ratio", limit });
const atMost = (limit: number): Target => ({ type: "at_most", limit });

const titles = { http1: "HTTP/1.1", http2: "HTTP/2", grpc: "gRPC" } as const;

const ofProtocol = (form: "mtls" | "plain", name: keyof typeof titles): readonly Line[] => {
  const protocol = `${form}_${name}`;
  return [
    {
      title: `${titles[name]}${form === "plain" ? ", plain" : ""}: most requests/s`,
      value: of(`${protocol}_most_per_s`),
      better: "more",
      digits: 0,
      target: ratio(1.5),
    },
    {
      title: "– proxy CPU per request, µs",
      value: of(`${protocol}_most_cpu_us`),
      better: "less",
      digits: 1,
      target: ratio(0.5),
    },
    {
      title: "– at 1,000 requests/s, p50 ms",
      value: of(`${protocol}_paced_p50_ms`),
      better: "less",
      digits: 3,
    },
    {
      title: "– added to direct, p50 ms",
      value: added(`${protocol}_paced_p50_ms`),
      better: "less",
      digits: 3,
      target: ratio(0.6),
    },
    {
      title: "– at 1,000 requests/s, p99 ms",
      value: of(`${protocol}_paced_p99_ms`),
      better: "less",
      digits: 3,
    },
    {
      title: "– added to direct, p99 ms",
      value: added(`${protocol}_paced_p99_ms`),
      better: "less",
      digits: 3,
      target: ratio(0.6),
    },
    {
      title: "– proxy CPU per request then, µs",
      value: of(`${protocol}_paced_cpu_us`),
      better: "less",
      digits: 1,
      target: ratio(0.5),
    },
  ];
};

const lines: readonly Line[] = [
  ...ofProtocol("mtls", "http1"),
  ...ofProtocol("mtls", "http2"),
  ...ofProtocol("mtls", "grpc"),
  ...ofProtocol("plain", "http1"),
  ...ofProtocol("plain", "http2"),
  ...ofProtocol("plain", "grpc"),
  { title: "memory idle, MB", value: of("idle_mb"), better: "less", digits: 1, target: atMost(8) },
  {
    title: "memory under load, MB",
    value: of("under_load_mb"),
    better: "less",
    digits: 1,
    target: atMost(20),
  },
  {
    title: "memory with the large route table, MB",
    value: of("many_routes_mb"),
    better: "less",
    digits: 1,
    target: atMost(40),
  },
  {
    title: "HTTP/1.1 requests/s with one route, to those with the large table",
    value: ({ one_route_per_s: one, many_routes_per_s: many }) =>
      one === undefined || many === undefined ? undefined : one / many,
    better: "less",
    digits: 2,
    target: atMost(1.1),
  },
  {
    title: "a route change in force, ms",
    value: of("change_ms"),
    better: "less",
    digits: 1,
    target: atMost(50),
  },
];

const contendersOf = (raw: RawRuns): readonly string[] => Object.keys(raw.rounds[0]?.contenders ?? {});

const counted = (raw: RawRuns): readonly Round[] =>
  raw.rounds.filter(({ contenders }) => Object.values(contenders).every(({ voided }) => voided.length === 0));

function spreadOf(rounds: readonly Round[], contender: string, line: Line): Spread | undefined {
  const values = rounds.flatMap(({ contenders }) => {
    const [own, direct] = [contenders[contender]?.values, contenders["direct"]?.values];
    const value = own && direct ? line.value(own, direct) : undefined;
    return value === undefined || Number.isNaN(value) ? [] : [value];
  });
  return values.length === 0 ? undefined : spread(values);
}

interface Row {
  readonly cells: readonly string[];
  readonly missed: string | undefined;
}

function rowOf(raw: RawRuns, line: Line): Row {
  const rounds = counted(raw);
  const shown = (value: number): string => value.toFixed(line.digits);
  const values = contendersOf(raw).map((contender) => {
    const each = spreadOf(rounds, contender, line);
    return each ? `${shown(each.median)} (${shown(each.min)}–${shown(each.max)})` : "–";
  });
  const own = spreadOf(rounds, "meltemi", line)?.median;
  const peer = spreadOf(rounds, "envoy", line)?.median;
  // Where Envoy added nothing that could be measured, there is nothing to be a part of.
  const quotient = own === undefined || peer === undefined || peer <= 0 ? undefined : own / peer;
  const { target } = line;
  if (!target) return { cells: [line.title, ...values, quotient?.toFixed(2) ?? "–", ""], missed: undefined };
  const judged = target.type === "ratio" ? quotient : own;
  const keeps =
    judged !== undefined && (line.better === "more" ? judged >= target.limit : judged <= target.limit);
  const sign = line.better === "more" ? "≥" : "≤";
  const text = `${sign} ${target.limit}${target.type === "ratio" ? "× envoy" : ""}`;
  const mark = judged === undefined ? "?" : keeps ? "✓" : "✗";
  return {
    cells: [line.title, ...values, quotient?.toFixed(2) ?? "–", `${mark} ${text}`],
    missed: judged !== undefined && !keeps ? line.title : undefined,
  };
}

/** No round is void, and every target that was measured is met. */
export function l7Passes(raw: RawRuns): boolean {
  const whole = raw.rounds.length > 0 && counted(raw).length === raw.rounds.length;
  return whole && lines.every((line) => rowOf(raw, line).missed === undefined);
}

function head({ startedAt, machine, rounds, settings, programs }: RawRuns): string[] {
  const loads = rounds.map(({ loadAverage }) => (loadAverage[0] ?? Number.NaN).toFixed(1)).join(", ");
  return [
    `# L7, ${startedAt.slice(0, 10)}, commit ${machine.commit.slice(0, 12)}`,
    "",
    `- ${machine.cores} cores of ${machine.cpu}, ${machine.memoryGb} GB, Linux ${machine.kernel}, Node ${machine.node}`,
    ...(machine.uncommitted.length > 0
      ? [`- with uncommitted changes in ${machine.uncommitted.join(", ")}`]
      : []),
    `- ${rounds.length} rounds of ${String(settings["seconds"])} s for each measurement, all contenders in turn; load average before each round: ${loads}`,
    `- load by ${String(settings["generator"])}; large route table: ${String(settings["manyRoutes"])} rules`,
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
export function renderL7Table(raw: RawRuns): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(" | ")} |`;
  const columns = ["", ...contendersOf(raw), "to envoy", "target"];
  const rows = lines.map((each) => rowOf(raw, each));
  const missed = rows.flatMap(({ missed: title }) => title ?? []);
  return [
    ...head(raw),
    "",
    "Medians (smallest–largest); “to envoy” is Meltemi's median divided by Envoy's. Mutual TLS on both sides: the waypoint's in tunnels (HBONE), Envoy's and direct's one TLS connection for each. “plain”: the waypoint's core as a reverse proxy, and Envoy, without tunnels and TLS; direct is the backend itself. Unless said otherwise 100 route rules, of which the last is asked for, and a policy of caller, method and path, are in force.",
    "",
    line(columns),
    line(columns.map((_, index) => (index === 0 ? "---" : "---:"))),
    ...rows.map(({ cells }) => line(cells)),
    "",
    missed.length === 0 ? "Every target is met." : `Missed: ${missed.join("; ")}.`,
    "",
  ].join("\n");
}
