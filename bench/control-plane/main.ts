/**
 * `npm run bench -- control-plane`: the control plane at 1,000 services, 10,000 pods and 500 nodes.
 * Prints a table on standard error and one JSON object on standard output; exit code 1 below the floor.
 *
 * --source files|objects   cold directory of YAML (default), or objects made in the server
 * --services N --pods N --nodes N --rate N --seconds N
 */
import "reflect-metadata";
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { eventually } from "../../test/helpers/eventually.js";
import { selfSigned } from "./certificate.js";
import type { NodesCommand, NodesReport, ServerCommand, ServerReport } from "./messages.js";
import { issueSize, type WorldSize } from "./world.js";
import { writeWorld } from "./yaml.js";

/** The floor of the issue. */
const floor = { readyMs: 5_000, rssMb: 250, p99Ms: 100, unasked: 0 };

const { values } = parseArgs({
  options: {
    source: { type: "string", default: "files" },
    services: { type: "string", default: String(issueSize.services) },
    pods: { type: "string", default: String(issueSize.pods) },
    nodes: { type: "string", default: String(issueSize.nodes) },
    rate: { type: "string", default: "100" },
    seconds: { type: "string", default: "10" },
  },
});

type Result = Readonly<Record<string, unknown>> & { readonly ok: boolean };

/** A child process that answers commands. */
class Child<Command extends object, Report extends { readonly type: string }> {
  readonly #process: ChildProcess;
  readonly #reports: Report[] = [];

  constructor(script: string, args: readonly string[]) {
    this.#process = fork(new URL(script, import.meta.url), { execArgv: [...args] });
    this.#process.on("message", (report: Report) => this.#reports.push(report));
  }

  tell(command: Command): void {
    this.#process.send(command);
  }

  hear<Type extends Report["type"]>(
    type: Type,
    deadlineMs = 120_000,
  ): Promise<Extract<Report, { type: Type }>> {
    const wanted = (report: Report): report is Extract<Report, { type: Type }> => report.type === type;
    return eventually(
      type,
      () => {
        if (this.#process.exitCode !== null)
          throw new Error(`the process ended with ${this.#process.exitCode}`);
        const index = this.#reports.findIndex(wanted);
        const [report] = index < 0 ? [] : this.#reports.splice(index, 1);
        return report && wanted(report) ? report : undefined;
      },
      deadlineMs,
    );
  }

  async end(): Promise<void> {
    if (this.#process.exitCode !== null) return;
    this.#process.kill("SIGKILL");
    await once(this.#process, "exit");
  }
}

async function run(size: WorldSize, directory: string | undefined): Promise<Result> {
  const tls = await selfSigned();
  const server = new Child<ServerCommand, ServerReport>("server.js", []);
  const nodes = new Child<NodesCommand, NodesReport>("nodes.js", ["--max-semi-space-size=32"]);
  try {
    server.tell({ type: "start", size, directory, tls });
    const ready = await server.hear("ready");
    nodes.tell({ type: "start", size, port: ready.port, tls });
    const settled = await nodes.hear("settled");
    const [perSecond, seconds] = [Number(values.rate), Number(values.seconds)];
    server.tell({ type: "change", perSecond, seconds });
    const changed = await server.hear("changed", seconds * 1000 + 60_000);
    const results = await eventually("all changes at the nodes", async () => {
      nodes.tell({ type: "results" });
      const seen = await nodes.hear("results");
      return seen.arrived >= changed.expected ? seen : undefined;
    });
    server.tell({ type: "memory" });
    const memory = await server.hear("memory");
    const ok =
      ready.readyMs < floor.readyMs &&
      memory.rssMb < floor.rssMb &&
      results.latencyMs.p99 < floor.p99Ms &&
      results.unasked === floor.unasked &&
      results.arrived === changed.expected;
    return {
      size,
      source: directory === undefined ? "objects" : "files",
      ready_ms: ready.readyMs,
      ready_rss_mb: ready.rssMb,
      connected_ms: settled.settledMs,
      resources_held_by_nodes: settled.resources,
      rss_mb: memory.rssMb,
      peak_rss_mb: memory.peakMb,
      heap_mb: memory.heapMb,
      changes: changed.changes,
      changes_per_second: perSecond,
      compile_ms: changed.compileMs,
      deliveries_expected: changed.expected,
      deliveries: results.arrived,
      messages_to_others: results.unasked,
      change_to_node_ms: results.latencyMs,
      floor,
      ok,
    };
  } finally {
    await Promise.all([server.end(), nodes.end()]);
  }
}

function table(result: Result): string {
  const rows = Object.entries(result).map(([key, value]) => {
    const number = (one: unknown): string =>
      typeof one === "number" ? String(Math.round(one * 100) / 100) : String(one);
    const text =
      typeof value === "object" && value !== null
        ? Object.entries(value)
            .map(([name, one]) => `${name} ${number(one)}`)
            .join(", ")
        : number(value);
    return `${key.replaceAll("_", " ").padEnd(26)} ${text}`;
  });
  return `${rows.join("\n")}\n`;
}

const size: WorldSize = {
  ...issueSize,
  services: Number(values.services),
  pods: Number(values.pods),
  nodes: Number(values.nodes),
};
const scratch = await mkdtemp(join(tmpdir(), "meltemi-bench-"));
try {
  const directory = values.source === "files" ? join(scratch, "config") : undefined;
  if (directory !== undefined) await writeWorld(size, directory);
  const result = await run(size, directory);
  process.stderr.write(table(result));
  process.stdout.write(`${JSON.stringify(result)}\n`);
  process.exitCode = result.ok ? 0 : 1;
} finally {
  await rm(scratch, { recursive: true, force: true });
}
