import type { Values } from "./raw.js";

/** A bound on Meltemi's median: in itself, or as a ratio to a peer's. */
export type Bound =
  | { readonly type: "absolute"; readonly limit: number }
  | { readonly type: "ratio"; readonly peer: "ztunnel" | "direct"; readonly limit: number };

/** One line of the table. */
export interface Row {
  readonly title: string;
  /** The number of one contender in one round, given what direct came to in the same round. */
  readonly value: (own: Values, direct: Values) => number | undefined;
  readonly better: "more" | "less";
  readonly digits: number;
  /** What issue 3 asks for. */
  readonly floor?: Bound;
  /** What the product is to reach. */
  readonly target?: Bound;
}

const ratio = (limit: number, peer: "ztunnel" | "direct" = "ztunnel"): Bound => ({
  type: "ratio",
  peer,
  limit,
});
const absolute = (limit: number): Bound => ({ type: "absolute", limit });
/** Within 10 % of the peer, or better. */
const [withinMore, withinLess] = [ratio(0.9), ratio(1.1)];

const of =
  (key: string): Row["value"] =>
  (own) =>
    own[key];
const added =
  (key: string): Row["value"] =>
  (own, direct) => {
    const [mine, base] = [own[key], direct[key]];
    return own === direct || mine === undefined || base === undefined ? undefined : mine - base;
  };

function throughput(mode: "up" | "down", streams: 1 | 8): readonly Row[] {
  const what = `${streams} stream${streams === 1 ? "" : "s"} ${mode}`;
  return [
    {
      title: `${what}, Gbit/s`,
      value: of(`${mode}_${streams}_gbit_s`),
      better: "more",
      digits: 2,
      floor: withinMore,
      target: ratio(streams === 1 ? 1.5 : 1.6),
    },
    {
      title: `${what}, proxy CPU-s per GB`,
      value: (own, direct) => (own === direct ? undefined : own[`${mode}_${streams}_cpu_s_per_gb`]),
      better: "less",
      digits: 2,
      floor: withinLess,
      target: ratio(0.6),
    },
  ];
}

const charged =
  (key: string): Row["value"] =>
  (own, direct) =>
    own === direct ? undefined : own[key];

export const rows: readonly Row[] = [
  ...throughput("up", 1),
  ...throughput("down", 1),
  ...throughput("up", 8),
  ...throughput("down", 8),
  {
    title: "1,000 requests/s, p50 ms",
    value: of("paced_p50_ms"),
    better: "less",
    digits: 3,
    floor: withinLess,
  },
  {
    title: "– added to direct, p50 ms",
    value: added("paced_p50_ms"),
    better: "less",
    digits: 3,
    target: ratio(0.5),
  },
  { title: "– p90 ms", value: of("paced_p90_ms"), better: "less", digits: 3 },
  {
    title: "– added to direct, p90 ms",
    value: added("paced_p90_ms"),
    better: "less",
    digits: 3,
    target: ratio(0.5),
  },
  { title: "– p99 ms", value: of("paced_p99_ms"), better: "less", digits: 3 },
  {
    title: "– proxy CPU per request, µs",
    value: charged("paced_cpu_us"),
    better: "less",
    digits: 0,
    target: ratio(0.5),
  },
  {
    title: "most requests/s, 32 connections",
    value: of("most_per_s"),
    better: "more",
    digits: 0,
    floor: withinMore,
    target: ratio(1.5),
  },
  { title: "– p50 ms", value: of("most_p50_ms"), better: "less", digits: 3 },
  { title: "– p99 ms", value: of("most_p99_ms"), better: "less", digits: 3 },
  { title: "– proxy CPU per request, µs", value: charged("most_cpu_us"), better: "less", digits: 0 },
  {
    title: "new connections/s, one request each",
    value: of("new_per_s"),
    better: "more",
    digits: 0,
    floor: withinMore,
    target: ratio(1.5),
  },
  { title: "– p50 ms", value: of("new_p50_ms"), better: "less", digits: 3 },
  { title: "– p99 ms", value: of("new_p99_ms"), better: "less", digits: 3 },
  {
    title: "– proxy CPU per connection, µs",
    value: charged("new_cpu_us"),
    better: "less",
    digits: 0,
    target: ratio(0.6),
  },
  {
    title: "memory fresh, both data planes, MB",
    value: of("fresh_mb"),
    better: "less",
    digits: 1,
    floor: withinLess,
    target: absolute(10),
  },
  {
    title: "– the larger data plane, MB",
    value: of("fresh_largest_mb"),
    better: "less",
    digits: 1,
    floor: absolute(16),
  },
  {
    title: "memory per idle connection, both ends, KB",
    value: of("idle_connection_kb"),
    better: "less",
    digits: 1,
    floor: withinLess,
    target: absolute(6),
  },
  { title: "memory after all loads, both, MB", value: of("after_mb"), better: "less", digits: 1 },
  {
    title: "agent, fresh, the larger, MB",
    value: of("agent_fresh_mb"),
    better: "less",
    digits: 1,
    floor: absolute(90),
  },
  {
    title: "agent, after all loads, MB",
    value: of("agent_after_mb"),
    better: "less",
    digits: 1,
    floor: absolute(90),
  },
];
