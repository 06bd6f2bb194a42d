import { performance } from "node:perf_hooks";
import { setTimeout as sleep } from "node:timers/promises";
import { MeltemiError } from "../../src/domain/error.js";
import { flags } from "../../demo/lab/flags.js";
import { startIn } from "../../demo/lab/command.js";
import type { Contender } from "./contender.js";
import { cpuSeconds } from "./processes.js";

/** The last line of `testkit load`. */
export interface LoadOutcome {
  readonly seconds: number;
  readonly bytes: number;
  readonly gbit_per_s: number;
  readonly done: number;
  readonly per_s: number;
  readonly latency_us: { readonly p50: number; readonly p90: number; readonly p99: number };
  readonly failed: number;
  readonly errors: Readonly<Record<string, number>>;
  readonly first_error?: string;
}

/** A load, and the CPU that was used while it was measured, in cores (CPU-seconds per second). */
export interface Loaded {
  readonly outcome: LoadOutcome;
  readonly proxyCores: number;
  readonly agentCores: number;
}

export interface Timing {
  readonly seconds: number;
  readonly warmupSeconds: number;
}

/** The reading of CPU clocks stays this far from the ends of the measured time. */
const marginMs = 100;

/** Puts one load on one contender; CPU is read while it runs, so that neither start nor end is charged. */
export async function load(
  testkit: string,
  contender: Contender,
  args: readonly string[],
  timing: Timing,
): Promise<Loaded> {
  const { proxies, agents } = await contender.charged();
  const child = startIn(contender.client.netns, testkit, [
    "load",
    ...args,
    ...flags({ seconds: timing.seconds, warmupSeconds: timing.warmupSeconds }),
  ]);
  let output = "";
  child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (output += chunk.toString()));
  const closed = new Promise<void>((resolve) => child.once("close", () => resolve()));
  const read = (): { atMs: number; proxies: number; agents: number } => ({
    atMs: performance.now(),
    proxies: cpuSeconds(proxies),
    agents: cpuSeconds(agents),
  });
  await sleep(timing.warmupSeconds * 1000 + marginMs);
  const before = read();
  await sleep(timing.seconds * 1000 - 2 * marginMs);
  const after = read();
  await closed;
  const last = output
    .trim()
    .split("\n")
    .findLast((line) => line.startsWith("{"));
  if (last === undefined)
    throw new MeltemiError("internal", `testkit load ${args.join(" ")} said nothing: ${output}`);
  const seconds = (after.atMs - before.atMs) / 1000;
  return {
    outcome: JSON.parse(last) as LoadOutcome,
    proxyCores: (after.proxies - before.proxies) / seconds,
    agentCores: (after.agents - before.agents) / seconds,
  };
}
