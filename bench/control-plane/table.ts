import type { RawRuns } from "../report/raw.js";
import { spread } from "../report/statistics.js";

interface Line {
  readonly title: string;
  readonly key: string;
  readonly digits: number;
  /** Less than this, or equal where it is zero (issue 3). */
  readonly floor?: number;
}

const lines: readonly Line[] = [
  { title: "ready, from a cold directory of YAML, ms", key: "ready_ms", digits: 0, floor: 5_000 },
  { title: "all nodes connected and told, ms", key: "connected_ms", digits: 0 },
  { title: "memory after the changes, MB", key: "rss_mb", digits: 0, floor: 250 },
  { title: "peak memory, MB", key: "peak_rss_mb", digits: 0 },
  { title: "heap, MB", key: "heap_mb", digits: 0 },
  { title: "compiling a change, p50 ms", key: "compile_ms_p50", digits: 2 },
  { title: "compiling a change, p99 ms", key: "compile_ms_p99", digits: 2 },
  { title: "change to node, p50 ms", key: "change_to_node_ms_p50", digits: 1 },
  { title: "change to node, p99 ms", key: "change_to_node_ms_p99", digits: 1, floor: 100 },
  { title: "messages to nodes that did not ask", key: "messages_to_others", digits: 0, floor: 0 },
];

const medianOf = (raw: RawRuns, key: string): ReturnType<typeof spread> =>
  spread(
    raw.rounds.flatMap(({ contenders }) => {
      const value = contenders["control-plane"]?.values[key];
      return value === undefined ? [] : [value];
    }),
  );

const keeps = (value: number, floor: number): boolean => (floor === 0 ? value === 0 : value < floor);

export function controlPlanePasses(raw: RawRuns): boolean {
  return (
    raw.rounds.every(({ contenders }) =>
      Object.values(contenders).every(({ voided }) => voided.length === 0),
    ) && lines.every(({ key, floor }) => floor === undefined || keeps(medianOf(raw, key).median, floor))
  );
}

export function renderControlPlaneTable(raw: RawRuns): string {
  const { machine, rounds } = raw;
  const first = rounds[0]?.contenders["control-plane"]?.values ?? {};
  return [
    `# Control plane, ${raw.startedAt.slice(0, 10)}, commit ${machine.commit.slice(0, 12)}`,
    "",
    `- ${machine.cores} cores of ${machine.cpu}, Linux ${machine.kernel}, Node ${machine.node}`,
    ...(machine.uncommitted.length > 0
      ? [`- with uncommitted changes in ${machine.uncommitted.join(", ")}`]
      : []),
    `- ${first["size_services"] ?? 0} services, ${first["size_pods"] ?? 0} pods, ${first["size_nodes"] ?? 0} nodes with a connection each, ${first["changes_per_second"] ?? 0} changes/s; server, nodes and load share the cores`,
    `- ${rounds.length} rounds; load average before each: ${rounds.map(({ loadAverage }) => (loadAverage[0] ?? Number.NaN).toFixed(1)).join(", ")}`,
    "",
    "| | median (smallest–largest) | floor |",
    "| --- | ---: | ---: |",
    ...lines.map(({ title, key, digits, floor }) => {
      const { median, min, max } = medianOf(raw, key);
      const number = (value: number): string => value.toFixed(digits);
      const verdict =
        floor === undefined
          ? ""
          : `${keeps(median, floor) ? "✓" : "✗"} ${floor === 0 ? "none" : `< ${floor}`}`;
      return `| ${title} | ${number(median)} (${number(min)}–${number(max)}) | ${verdict} |`;
    }),
    "",
  ].join("\n");
}
