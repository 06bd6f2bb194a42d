import { flags } from "../../demo/lab/flags.js";
import type { Values } from "../report/raw.js";
import type { Contender } from "./contender.js";
import type { Loaded } from "./load.js";

/** One load that every contender carries in turn, and the numbers that it gives. */
export interface Phase {
  readonly name: string;
  readonly args: (contender: Contender) => readonly string[];
  readonly values: (loaded: Loaded) => Values;
}

const throughput = (mode: "up" | "down", streams: number): Phase => ({
  name: `${mode}, ${streams} stream${streams === 1 ? "" : "s"}`,
  args: (contender) => [
    "tcp",
    ...flags({ connect: contender.address(mode === "up" ? "sink" : "source"), mode, streams }),
  ],
  values: ({ outcome, proxyCores }) => ({
    [`${mode}_${streams}_gbit_s`]: outcome.gbit_per_s,
    [`${mode}_${streams}_cpu_s_per_gb`]: proxyCores / (outcome.bytes / outcome.seconds / 1e9),
  }),
});

interface Requests {
  readonly name: string;
  /** What the names of its numbers begin with. */
  readonly key: string;
  readonly connections: number;
  readonly rate: number;
  readonly newConnections: boolean;
}

const requests = ({ name, key, connections, rate, newConnections }: Requests): Phase => ({
  name,
  args: (contender) => [
    "http",
    ...flags({ url: `http://${contender.address("http")}/echo?size=1024`, connections, rate }),
    ...(newConnections ? ["--new-connections"] : []),
  ],
  values: ({ outcome, proxyCores, agentCores }) => ({
    [`${key}_per_s`]: outcome.per_s,
    [`${key}_p50_ms`]: outcome.latency_us.p50 / 1e3,
    [`${key}_p90_ms`]: outcome.latency_us.p90 / 1e3,
    [`${key}_p99_ms`]: outcome.latency_us.p99 / 1e3,
    [`${key}_cpu_us`]: (proxyCores / outcome.per_s) * 1e6,
    [`${key}_agent_cpu_us`]: (agentCores / outcome.per_s) * 1e6,
  }),
});

/** In the order in which they are run. */
export const phases: readonly Phase[] = [
  throughput("up", 1),
  throughput("down", 1),
  throughput("up", 8),
  throughput("down", 8),
  requests({ name: "1,000 requests/s", key: "paced", connections: 16, rate: 1000, newConnections: false }),
  requests({ name: "most requests/s", key: "most", connections: 32, rate: 0, newConnections: false }),
  requests({ name: "new connections", key: "new", connections: 16, rate: 0, newConnections: true }),
];
