import { fileURLToPath } from "node:url";
import { execa } from "execa";
import { MeltemiError } from "../../src/domain/error.js";
import { describeMachine } from "../report/machine.js";
import type { RawRuns, Round } from "../report/raw.js";
import { loadavg } from "node:os";

type Json = Readonly<Record<string, unknown>>;

/** Numbers of a result, nested ones joined by an underscore. */
function numbers(result: Json, prefix = ""): Record<string, number> {
  return Object.fromEntries(
    Object.entries(result).flatMap(([key, value]): [string, number][] => {
      if (typeof value === "number") return [[`${prefix}${key}`, value]];
      if (key === "floor" || typeof value !== "object" || value === null) return [];
      return Object.entries(numbers(value as Json, `${prefix}${key}_`));
    }),
  );
}

/** Runs the control plane's benchmark several times, each in processes of its own. */
export async function runControlPlane(options: {
  readonly runs: number;
  readonly args: readonly string[];
  readonly progress: (step: string) => void;
}): Promise<RawRuns> {
  const script = fileURLToPath(new URL("./main.js", import.meta.url));
  const startedAt = new Date().toISOString();
  const machine = await describeMachine();
  const rounds: Round[] = [];
  for (let round = 0; round < options.runs; round++) {
    options.progress(`round ${round + 1} of ${options.runs}`);
    const [loadAverage, began] = [loadavg(), new Date().toISOString()];
    const run = await execa(process.execPath, [script, ...options.args], { reject: false });
    const last = run.stdout.trim().split("\n").at(-1) ?? "";
    if (!last.startsWith("{"))
      throw new MeltemiError("internal", `the control plane's benchmark gave no result: ${run.stderr}`);
    const result = JSON.parse(last) as Json;
    const voided = result["deliveries"] === result["deliveries_expected"] ? [] : ["deliveries are missing"];
    rounds.push({
      round,
      loadAverage,
      startedAt: began,
      contenders: { "control-plane": { values: numbers(result), voided, evidence: [result] } },
    });
  }
  return {
    benchmark: "control-plane",
    startedAt,
    machine,
    programs: {},
    settings: { runs: options.runs, arguments: options.args.join(" ") },
    rounds,
  };
}
