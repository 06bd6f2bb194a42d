import { loadavg } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { LongRunning } from "../../demo/lab/long-running.js";
import { flags } from "../../demo/lab/flags.js";
import type { ContenderRound, Round, Values } from "../report/raw.js";
import type { Contender } from "./contender.js";
import { load, type Timing } from "./load.js";
import { phases } from "./phases.js";
import { residentMb, sum } from "./processes.js";
import type { Site } from "./site.js";
import { proveTheWay, untilCarries } from "./wire.js";

export interface RoundOptions {
  readonly testkit: string;
  readonly timing: Timing;
  readonly idleConnections: number;
  /** Only measurements whose name contains this. */
  readonly only: string;
  readonly progress: (step: string) => void;
}

/** How long a process rests before its memory is read. */
const settleMs = 1_000;
/** A proxy that uses less than this, in cores, while its connections are loaded does not carry them. */
const carryingCores = 0.005;

/** What becomes of one contender's numbers in the course of a round. */
class Record {
  readonly contender: Contender;
  readonly #values: { [key: string]: number } = {};
  readonly #voided: string[] = [];
  readonly #evidence: unknown[] = [];

  constructor(contender: Contender) {
    this.contender = contender;
  }

  add(values: Values): void {
    Object.assign(this.#values, values);
  }

  void(where: string, problems: readonly string[]): void {
    this.#voided.push(...problems.map((problem) => `${where}: ${problem}`));
  }

  note(evidence: unknown): void {
    this.#evidence.push(evidence);
  }

  get result(): ContenderRound {
    return { values: this.#values, voided: this.#voided, evidence: this.#evidence };
  }
}

interface Idle {
  readonly opened: number;
  readonly failed: number;
  readonly still_open: number;
}

async function memoryWhenFresh(record: Record): Promise<void> {
  const { proxies, agents } = await record.contender.charged();
  if (proxies.length === 0) return;
  const resident = residentMb(proxies);
  record.add({ fresh_mb: sum(resident), fresh_largest_mb: Math.max(...resident) });
  if (agents.length > 0) record.add({ agent_fresh_mb: Math.max(...residentMb(agents)) });
}

async function wayIsProven(record: Record, when: string, options: RoundOptions): Promise<void> {
  const { problems, evidence } = await proveTheWay(options.testkit, record.contender);
  record.void(when, problems);
  record.note({ when, ...(evidence as object) });
}

/** On processes that have carried next to nothing: memory freed earlier would hide what a connection costs. */
async function idleConnections(record: Record, options: RoundOptions): Promise<void> {
  const { contender } = record;
  const { proxies } = await contender.charged();
  if (proxies.length === 0) return;
  await sleep(settleMs);
  const before = sum(residentMb(proxies));
  const connections = options.idleConnections;
  const client = new LongRunning(contender.client.netns, options.testkit, [
    ...["client", "idle", ...flags({ connect: contender.address("echo"), connections, probe: true })],
  ]);
  await client.ready;
  await sleep(settleMs);
  const during = sum(residentMb(proxies));
  const idle = (await client.stop()) as Idle;
  record.note({ idle });
  if (idle.still_open !== connections)
    record.void("idle connections", [`${idle.still_open} of ${connections} were still open`]);
  record.add({ idle_connection_kb: ((during - before) * 1024) / connections });
}

async function loaded(record: Record, phase: (typeof phases)[number], options: RoundOptions): Promise<void> {
  const { contender } = record;
  const result = await load(options.testkit, contender, phase.args(contender), options.timing);
  const { outcome, proxyCores } = result;
  record.note({ phase: phase.name, ...result });
  if (outcome.failed > 0)
    record.void(phase.name, [`${outcome.failed} failed: ${outcome.first_error ?? "?"}`]);
  if (contender.encrypted && proxyCores < carryingCores)
    record.void(phase.name, [`its proxies used ${proxyCores.toFixed(4)} cores: something else carried it`]);
  record.add(phase.values(result));
}

async function memoryAfter(record: Record, processesBefore: readonly number[]): Promise<void> {
  const { proxies, agents } = await record.contender.charged();
  if (proxies.length === 0) return;
  if (proxies.some((pid, index) => pid !== processesBefore[index]))
    record.void("at the end", ["a proxy had been restarted"]);
  await sleep(settleMs);
  record.add({ after_mb: sum(residentMb(proxies)) });
  if (agents.length > 0) record.add({ agent_after_mb: Math.max(...residentMb(agents)) });
}

/** From another start each time, so that no contender always comes after the same one. */
const rotated = <T>(items: readonly T[], by: number): readonly T[] =>
  items.map((_, index) => items[(index + by) % items.length] as T);

/** All contenders, started anew and loaded in turn, measurement by measurement. */
export async function runRound(site: Site, round: number, options: RoundOptions): Promise<Round> {
  const startedAt = new Date().toISOString();
  const loadAverage = loadavg();
  options.progress("starting all contenders");
  const records = (await site.start()).map((contender) => new Record(contender));
  try {
    const processes = new Map<Record, readonly number[]>();
    for (const record of records) processes.set(record, (await record.contender.charged()).proxies);
    await sleep(settleMs);
    for (const record of records) await memoryWhenFresh(record);
    for (const record of records) await untilCarries(options.testkit, record.contender);
    for (const record of records) await wayIsProven(record, "before", options);
    if ("idle connections".includes(options.only)) {
      options.progress(`${options.idleConnections} idle connections`);
      for (const record of rotated(records, round)) await idleConnections(record, options);
    }
    for (const [index, phase] of phases.filter(({ name }) => name.includes(options.only)).entries()) {
      for (const record of rotated(records, round + index)) {
        options.progress(`${phase.name}: ${record.contender.name}`);
        await loaded(record, phase, options);
      }
    }
    for (const record of records) await memoryAfter(record, processes.get(record) ?? []);
    for (const record of records) await wayIsProven(record, "after", options);
  } finally {
    await site.stop();
  }
  return {
    round,
    loadAverage,
    startedAt,
    contenders: Object.fromEntries(records.map((record) => [record.contender.name, record.result])),
  };
}
