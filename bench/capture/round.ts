import { readFileSync } from "node:fs";
import { loadavg } from "node:os";
import { runIn } from "../../demo/lab/command.js";
import { flags } from "../../demo/lab/flags.js";
import { load, type Loaded, type Timing } from "../l4/load.js";
import { ports, type Contender } from "../l4/contender.js";
import type { ContenderRound, Round, Values } from "../report/raw.js";
import { median } from "../report/statistics.js";
import type { Crowd } from "./crowd.js";
import { awaitFirstConnection } from "./first-connection.js";
import { type CaptureLab, singles } from "./lab.js";
import { enrolCrowd } from "./many-pods.js";
import type { Mode } from "./modes.js";
import type { NodeAgent } from "./node-agent.js";

export interface RoundOptions {
  readonly testkit: string;
  readonly timing: Timing;
  readonly quick: boolean;
  readonly progress: (step: string) => void;
}

type Name = Mode | "direct";

/** What becomes of one contender's numbers in the course of a round. */
class Record {
  readonly #values: { [key: string]: number } = {};
  readonly voided: string[] = [];
  readonly evidence: unknown[] = [];

  constructor(
    readonly name: Name,
    readonly agent: NodeAgent | undefined,
  ) {}

  add(values: Values): void {
    Object.assign(this.#values, values);
  }

  get result(): ContenderRound {
    return { values: this.#values, voided: this.voided, evidence: this.evidence };
  }
}

/** CPU time that the machine's processors were not idle, in seconds, of all that runs on it. */
function busySeconds(): number {
  const [, user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0] = (
    readFileSync("/proc/stat", "utf8").split("\n")[0] ?? ""
  )
    .split(/\s+/)
    .map(Number);
  return (user + nice + system + irq + softirq) / 100;
}

const conntrack = async (netns: string): Promise<number> =>
  Number(await runIn(netns, "cat", ["/proc/sys/net/netfilter/nf_conntrack_count"]));

function contender(lab: CaptureLab, record: Record): Contender {
  const [client, server] = [lab.client(record.name), lab.server(record.name)];
  return {
    name: record.name,
    client,
    server,
    encrypted: false,
    address: (served) => `${server.ip}:${ports[served]}`,
    charged: async () => {
      const pid = (await record.agent?.status())?.data_plane.pid;
      return { proxies: pid === undefined ? [] : [pid], agents: [] };
    },
  };
}

interface Phase {
  readonly name: string;
  readonly args: (contender: Contender) => readonly string[];
  readonly values: (loaded: Loaded, machineCores: number) => Values;
}

const bulk = (name: string, key: string, served: "sink" | "echo"): Phase => ({
  name,
  args: (one) => ["tcp", ...flags({ connect: one.address(served), mode: "up", streams: 1 })],
  values: ({ outcome }, machineCores) => ({
    [`${key}_gbit_s`]: outcome.gbit_per_s,
    [`${key}_cpu_s_per_gb`]: machineCores / (outcome.bytes / outcome.seconds / 1e9),
  }),
});

const phases: readonly Phase[] = [
  {
    name: "new connections",
    args: (one) => [
      "http",
      ...flags({ url: `http://${one.address("http")}/echo?size=1024`, connections: 16, rate: 0 }),
      "--new-connections",
    ],
    values: ({ outcome, proxyCores }, machineCores) => ({
      new_per_s: outcome.per_s,
      new_p50_ms: outcome.latency_us.p50 / 1e3,
      new_p99_ms: outcome.latency_us.p99 / 1e3,
      new_proxy_cpu_us: (proxyCores / outcome.per_s) * 1e6,
      new_machine_cpu_us: (machineCores / outcome.per_s) * 1e6,
    }),
  },
  bulk("bulk, through the data plane", "captured", "echo"),
  bulk("bulk, past it: an excluded port", "excluded", "sink"),
];

async function loaded(lab: CaptureLab, record: Record, phase: Phase, options: RoundOptions): Promise<void> {
  const one = contender(lab, record);
  const [busyFrom, fromMs] = [busySeconds(), performance.now()];
  const result = await load(options.testkit, one, phase.args(one), options.timing);
  const machineCores = (busySeconds() - busyFrom) / ((performance.now() - fromMs) / 1000);
  record.evidence.push({ phase: phase.name, ...result, machineCores });
  const { failed, first_error } = result.outcome;
  if (failed > 0) record.voided.push(`${phase.name}: ${failed} failed: ${first_error ?? "?"}`);
  record.add(phase.values(result, machineCores));
  if (phase.name === "new connections")
    record.add({ conntrack_entries: await conntrack(lab.client(record.name).netns) });
}

/** The mode and the guard as the agent says, and as the kernel shows. */
async function prove(lab: CaptureLab, record: Record): Promise<void> {
  if (record.agent === undefined) return;
  const pods = (await record.agent.status())?.pods ?? [];
  const { netns, name } = lab.client(record.name);
  const pod = pods.find((each) => each.name === name);
  const rules = (await runIn(netns, "nft", ["list", "ruleset"]))
    .split("\n")
    .filter((line) => line !== "").length;
  const routes = await runIn(netns, "ip", ["rule", "show"]);
  record.evidence.push({
    mode: pod?.mode,
    guard: pod?.guard,
    nftables_lines: rules,
    ip_rules: routes.split("\n"),
  });
  if (pod?.mode !== record.name) record.voided.push(`captured by ${pod?.mode ?? "nothing"}`);
  if (record.name === "bpf" && rules > 0) record.voided.push(`${rules} lines of netfilter rules`);
}

/** Pods that ask for the mesh one by one: until the first connection of each has met the data plane. */
async function firstConnections(lab: CaptureLab, record: Record, mode: Mode): Promise<void> {
  const times: number[] = [];
  for (let index = 0; index < singles; index++) {
    const pod = lab.single(mode, index);
    const client = await awaitFirstConnection(pod);
    try {
      const askedMs = await lab.ask(mode, pod);
      times.push((await client.atMs) - askedMs);
    } finally {
      client.stop();
    }
    await lab.ask(mode, undefined);
    await record.agent?.enrolled(1);
  }
  record.evidence.push({ first_connection_ms: times });
  record.add({ first_connection_ms: median(times) });
}

async function manyPods(lab: CaptureLab, record: Record, crowd: Crowd, options: RoundOptions): Promise<void> {
  if (record.name === "direct") return;
  const agent = lab.crowdAgent(record.name);
  await agent.start();
  try {
    const rest = options.quick
      ? { restSeconds: 1, settleSeconds: 1 }
      : { restSeconds: 10, settleSeconds: 10 };
    record.add(await enrolCrowd(agent, crowd, rest));
  } finally {
    const code = await agent.stop();
    if (code !== 0) record.voided.push(`the agent of many pods ended with ${code ?? "a signal"}`);
  }
}

/** From another start each time, so that no contender always comes after the same one. */
const rotated = <T>(items: readonly T[], by: number): readonly T[] =>
  items.map((_, index) => items[(index + by) % items.length] as T);

/** All modes, started anew and loaded in turn, measurement by measurement. */
export async function runRound(
  lab: CaptureLab,
  crowds: ReadonlyMap<Mode, Crowd>,
  round: number,
  options: RoundOptions,
): Promise<Round> {
  const [startedAt, loadAverage] = [new Date().toISOString(), loadavg()];
  options.progress("starting the agents");
  const agents = await lab.start();
  const records = [
    new Record("direct", undefined),
    ...[...agents].map(([mode, agent]) => new Record(mode, agent)),
  ];
  try {
    for (const record of records) await prove(lab, record);
    for (const [index, phase] of phases.entries()) {
      for (const record of rotated(records, round + index)) {
        options.progress(`${phase.name}: ${record.name}`);
        await loaded(lab, record, phase, options);
      }
    }
    for (const record of rotated(records, round)) {
      if (record.name === "direct") continue;
      options.progress(`one pod: ${record.name}`);
      await firstConnections(lab, record, record.name);
    }
    for (const record of records) await prove(lab, record);
  } finally {
    for (const agent of agents.values()) await agent.stop();
  }
  for (const record of rotated(records, round)) {
    if (record.name === "direct") continue;
    const crowd = crowds.get(record.name);
    if (crowd === undefined) continue;
    options.progress(`${crowd.pods.length} pods: ${record.name}`);
    await manyPods(lab, record, crowd, options);
  }
  const contenders = Object.fromEntries(records.map((record) => [record.name, record.result]));
  return { round, loadAverage, startedAt, contenders };
}
