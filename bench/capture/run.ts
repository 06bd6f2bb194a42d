import { join } from "node:path";
import { describeMachine, describeProgram, versionOf } from "../report/machine.js";
import type { RawRuns, Round } from "../report/raw.js";
import { Crowd } from "./crowd.js";
import { CaptureLab } from "./lab.js";
import type { Mode } from "./modes.js";
import { runRound } from "./round.js";

export interface CaptureOptions {
  /** Where meltemi-proxy and meltemi-testkit are. */
  readonly binaries: string;
  readonly modes: readonly Mode[];
  readonly runs: number;
  readonly seconds: number;
  readonly quick: boolean;
  readonly pods: number;
  readonly progress: (step: string) => void;
}

/** Measures what capture costs on the plain path, and what enrolling costs, in each mode. */
export async function runCapture(options: CaptureOptions): Promise<RawRuns> {
  const { binaries, modes, runs, quick, pods, progress } = options;
  const programs = { proxy: join(binaries, "meltemi-proxy"), testkit: join(binaries, "meltemi-testkit") };
  const startedAt = new Date().toISOString();
  const machine = await describeMachine();
  const timing = { seconds: options.seconds, warmupSeconds: quick ? 0.3 : 0.7 };
  const lab = new CaptureLab(programs, modes);
  const crowds = new Map<Mode, Crowd>();
  const rounds: Round[] = [];
  try {
    progress("nodes, pods and servers");
    await lab.up();
    for (const [index, mode] of modes.entries()) {
      const crowd = new Crowd(lab.node(mode), `k${index}`, pods);
      await crowd.up();
      crowds.set(mode, crowd);
    }
    for (let round = 0; round < runs; round++) {
      const told = (step: string): void => progress(`round ${round + 1} of ${runs}: ${step}`);
      const { testkit } = programs;
      rounds.push(await runRound(lab, crowds, round, { testkit, timing, quick, progress: told }));
    }
  } finally {
    lab.down();
  }
  return {
    benchmark: "capture",
    startedAt,
    machine,
    programs: {
      "meltemi-proxy": await describeProgram(programs.proxy, await versionOf(programs.proxy, ["--version"])),
      "meltemi-testkit": await describeProgram(
        programs.testkit,
        await versionOf(programs.testkit, ["--version"]),
      ),
    },
    settings: { ...timing, runs, quick, pods, modes: modes.join(",") },
    rounds,
  };
}
