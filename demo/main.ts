import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { Command, Option } from "commander";
import { messageOf } from "../src/domain/error.js";
import { captureLine, type RowResult, renderJson, renderTable } from "./report.js";
import { rows } from "./rows/index.js";
import { expectationOf, type Row, type Sabotage, sabotages } from "./rows/row.js";
import { root, testkit, World } from "./world.js";

interface Options {
  readonly sabotage?: Sabotage;
  readonly keep: boolean;
  readonly json: boolean;
}

function parse(argv: readonly string[]): Options {
  const program = new Command("npm run demo --")
    .description("Brings up a mesh of two nodes in a sandbox, tries it out, and prints what was seen.")
    .addOption(
      new Option("--sabotage <what>", "break one thing on purpose: exactly its row turns red").choices(
        sabotages,
      ),
    )
    .option("--keep", "leave the mesh running, and say what to try", false)
    .option("--json", "print the rows as one JSON object on stdout, and nothing else there", false)
    .parse([...argv]);
  return program.opts<Options>();
}

const started = performance.now();
const progress = (step: string): void => {
  process.stderr.write(`${((performance.now() - started) / 1000).toFixed(1).padStart(6)} s  ${step}\n`);
};

/** One row; a row that cannot even be tried is a failed one. */
async function attempt(row: Row, world: World, broken: boolean): Promise<RowResult> {
  progress(row.name);
  try {
    return { name: row.name, expected: expectationOf(row, world), ...(await row.attempt(world, broken)) };
  } catch (error) {
    return {
      name: row.name,
      expected: expectationOf(row, world),
      seen: `could not be tried: ${messageOf(error)}`,
      ok: false,
    };
  }
}

/** A command that enters the sandbox from another terminal. */
async function wayIn(): Promise<string> {
  const pid = (await readFile(join(root, ".cache/demo.pid"), "utf8").catch(() => "PID")).trim();
  // Root makes no user namespace; for anybody else the sandbox is one.
  const users = /^\s*0\s+0\s/.test(await readFile("/proc/self/uid_map", "utf8"))
    ? ""
    : "--user --preserve-credentials ";
  return `nsenter --target ${pid} --net --mount ${users}bash`;
}

function whatToTry(world: World, enter: string): string {
  return [
    "",
    "The mesh goes on running; Ctrl-C ends it. From another terminal, enter its namespaces first:",
    `  ${enter}`,
    "then, for example:",
    `  export MELTEMI_RUN_DIR=${world.run}`,
    "  bin/meltemi status",
    "  bin/meltemi connections",
    "  bin/meltemi logs -f",
    `  nsenter --net=/run/netns/d-frontend ${testkit} client http --url http://10.96.0.10:8080/ --requests 4`,
    `  edit ${world.config}/policy.yaml`,
    "",
  ].join("\n");
}

/** Resolves when the person ends it. */
function interrupted(): Promise<void> {
  return new Promise((resolve) => {
    process.once("SIGINT", () => resolve());
    process.once("SIGTERM", () => resolve());
  });
}

async function main(): Promise<number> {
  const options = parse(process.argv);
  const world = new World();
  let results: RowResult[] = [];
  const end = interrupted();
  const work = async (): Promise<void> => {
    await world.up(progress);
    progress(`capture: ${captureLine(world.capturedBy)}`);
    for (const row of rows)
      results.push(
        await attempt(row, world, options.sabotage !== undefined && row.noticed === options.sabotage),
      );
  };
  const outcome = await Promise.race([
    work().then(() => "done" as const),
    end.then(() => "interrupted" as const),
  ]);
  if (outcome === "interrupted") results = [];
  else {
    progress("done");
    process.stdout.write(
      `${options.json ? renderJson(results, world.capturedBy) : `${captureLine(world.capturedBy)}\n${renderTable(results)}`}\n`,
    );
    if (options.keep) {
      process.stderr.write(whatToTry(world, await wayIn()));
      await end;
    }
  }
  await world.down();
  if (outcome === "interrupted") return 130;
  return results.every((row) => row.ok) ? 0 : 1;
}

main().then(
  (code) => process.exit(code),
  (error: unknown) => {
    process.stderr.write(`the demo could not run: ${messageOf(error)}\n`);
    process.exit(1);
  },
);
