/** The one command. Everything beyond reading the arguments is loaded by the subcommand that needs it. */
import { Command, Option } from "commander";
import type { Target } from "../cli/run-directory.js";
import type { View } from "../cli/view.js";
import { MeltemiError, messageOf } from "../domain/error.js";
import { redirectModeHelp } from "./redirect-mode.js";
import { keepHeapSmall } from "../platform/small-heap.js";

type Flags = Readonly<Record<string, string | boolean | undefined>>;
type TextFlags = Readonly<Record<string, string | undefined>>;

const text = (flags: Flags, name: string): string | undefined => {
  const value = flags[name];
  return typeof value === "string" ? value : undefined;
};

/** SIGTERM and SIGINT end the process in order; a second one at once. */
function endSignal(): AbortSignal {
  const ending = new AbortController();
  for (const name of ["SIGTERM", "SIGINT"] as const) {
    process.on(name, () => {
      if (ending.signal.aborted) process.exit(130);
      ending.abort();
    });
  }
  return ending.signal;
}

const longLived: ReadonlySet<string | undefined> = new Set(["control-plane", "standalone", "node"]);

/**
 * Who reads our output may stop (`| head`): a command has then said enough, and a server goes on without it. It also
 * goes on where the disk that its log is on is full.
 */
function expectBrokenPipes(chosen: string | undefined): void {
  const goesOn = longLived.has(chosen);
  for (const stream of [process.stdout, process.stderr]) {
    stream.on("error", (error: NodeJS.ErrnoException) => {
      if (error.code === "ENOSPC" && goesOn) return;
      if (error.code !== "EPIPE") throw error;
      if (!goesOn) process.exit();
    });
  }
}

function addReadingFlags(command: Command): Command {
  return command
    .option("--run-dir <dir>", "run directory of a standalone, a control plane or a node (MELTEMI_RUN_DIR)")
    .option("-o, --output <format>", "table, wide, json or yaml", "table");
}

/** Finds what runs, makes the view and prints it. */
async function show(flags: Flags, make: (target: Target) => Promise<View>): Promise<void> {
  const { defaultRunDir, findTarget } = await import("../cli/run-directory.js");
  const { formatView, parseOutputFormat } = await import("../cli/view.js");
  const format = parseOutputFormat(text(flags, "output") ?? "table");
  const target = findTarget(text(flags, "runDir") ?? defaultRunDir(process.env, process.getuid?.() ?? 0));
  const view = await make(target);
  process.stdout.write(await formatView(view, format));
  for (const note of view.notes) process.stderr.write(`${note}\n`);
}

const filter = (flags: Flags): { namespace: string | undefined; node: string | undefined } => ({
  namespace: text(flags, "namespace"),
  node: text(flags, "node"),
});

function addReadingCommands(program: Command): void {
  const reading = (name: string, description: string): Command =>
    addReadingFlags(program.command(name).description(description));

  reading("status", "what runs, on which nodes, and what is wrong").action((flags: Flags) =>
    show(flags, async (target) => (await import("../cli/status.js")).statusView(target, Date.now())),
  );
  reading("workloads", "workloads, their identities and whether they are in the mesh")
    .option("-n, --namespace <name>", "of this namespace only")
    .option("--node <name>", "of this node only")
    .action((flags: Flags) =>
      show(flags, async (target) => (await import("../cli/mesh.js")).workloadsView(target, filter(flags))),
    );
  reading("services", "services, their addresses and endpoints")
    .option("-n, --namespace <name>", "of this namespace only")
    .action((flags: Flags) =>
      show(flags, async (target) => (await import("../cli/mesh.js")).servicesView(target, filter(flags))),
    );
  reading("policies", "policies, whether they are in force, and how often they matched")
    .option("-n, --namespace <name>", "of this namespace only")
    .action((flags: Flags) =>
      show(flags, async (target) => (await import("../cli/mesh.js")).policiesView(target, filter(flags))),
    );
  reading("certificates", "the nodes' workload certificates")
    .option("--node <name>", "of this node only")
    .action((flags: Flags) =>
      show(flags, async (target) =>
        (await import("../cli/node-views.js")).certificatesView(target, filter(flags)),
      ),
    );
  reading("connections", "who talks to whom now")
    .option("--node <name>", "of this node only")
    .action((flags: Flags) =>
      show(flags, async (target) =>
        (await import("../cli/node-views.js")).connectionsView(target, filter(flags), Date.now()),
      ),
    );
  reading("log-level [level]", "reads or sets the log level of the running processes")
    .option("--node <name>", "of this node only")
    .addOption(
      new Option("--component <name>", "whose")
        .choices(["control-plane", "agent", "proxy", "all"])
        .default("all"),
    )
    .action((level: string | undefined, flags: Flags) =>
      show(flags, async (target) => {
        const component = text(flags, "component") as "control-plane" | "agent" | "proxy" | "all";
        return (await import("../cli/log-level.js")).logLevelView(
          target,
          { node: text(flags, "node"), component },
          level,
        );
      }),
    );
}

function addCaCommands(program: Command): void {
  const ca = program.command("ca").description("the certificate authority");
  addReadingFlags(ca.command("status").description("roots, issuing key, and how far a rotation is")).action(
    (flags: Flags) => show(flags, async (target) => (await import("../cli/ca.js")).caStatusView(target)),
  );
  addReadingFlags(
    ca
      .command("rotate")
      .argument("<what>", "root or issuing")
      .description("begin to replace a key, without an outage"),
  )
    .option("--advance", "go on to the next phase without waiting for nodes that have not renewed")
    .action((what: string, flags: Flags) =>
      show(flags, async (target) => {
        if (what !== "root" && what !== "issuing") {
          throw new MeltemiError("bad_input", `there is no key "${what}"`, {
            hint: "meltemi ca rotate root, or: meltemi ca rotate issuing",
          });
        }
        return (await import("../cli/ca.js")).caRotate(target, what, flags["advance"] === true);
      }),
    );
  for (const decision of ["refuse", "allow"] as const) {
    const description =
      decision === "refuse" ? "no new certificates for an identity" : "certificates for an identity again";
    addReadingFlags(
      ca
        .command(decision)
        .argument("<identity>", "spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT")
        .description(description),
    ).action((identity: string, flags: Flags) =>
      show(flags, async (target) => (await import("../cli/ca.js")).caDecide(target, decision, identity)),
    );
  }
}

/** The flags of a long-running command are loaded only when it is the one that runs. */
async function addProcessCommands(program: Command, chosen: string | undefined): Promise<void> {
  const standalone = program
    .command("standalone")
    .description("the whole mesh on this machine, from a directory of YAML");
  const controlPlane = program
    .command("control-plane")
    .description("the control plane alone, as standalone starts it");
  const node = program.command("node").description("a node agent, as standalone starts it");
  // These live long and allocate little at a time.
  if (longLived.has(chosen)) keepHeapSmall();
  switch (chosen) {
    case "control-plane": {
      const { addControlPlaneFlags, readControlPlaneOptions } = await import("./control-plane/options.js");
      addControlPlaneFlags(controlPlane).action(async (flags: Flags) => {
        const options = readControlPlaneOptions(flags, process.env);
        const { runControlPlane } = await import("./control-plane/run.js");
        await runControlPlane(options, endSignal());
      });
      return;
    }
    case "standalone": {
      const { addStandaloneFlags, readStandaloneOptions } = await import("./standalone/options.js");
      addStandaloneFlags(standalone).action(async (flags: TextFlags) => {
        const options = readStandaloneOptions(flags, process.env);
        const { runStandalone } = await import("./standalone/run.js");
        await runStandalone(options, endSignal());
      });
      return;
    }
    case "node": {
      const { addNodeFlags, readNodeOptions, runNode } = await import("./node.js");
      addNodeFlags(node).action((flags: Flags) => runNode(readNodeOptions(flags)));
      return;
    }
    default:
  }
}

function addOfflineCommands(program: Command): void {
  program
    .command("analyze")
    .argument("<dir>", "directory of YAML, or one file")
    .description("checks manifests without running anything; ends with 1 where one is refused")
    .addOption(
      new Option("-o, --output <format>", "how to print").choices(["table", "json", "yaml"]).default("table"),
    )
    .option("--standalone", "also what pods lack to run on this machine: node, address, network namespace")
    .action(async (directory: string, flags: Flags) => {
      const { analyzeDirectory, analysisExitCode, formatAnalysis } = await import("../cli/analyze.js");
      const analysis = await analyzeDirectory(directory, { standalone: flags["standalone"] === true });
      process.stdout.write(formatAnalysis(analysis, text(flags, "output") as "table" | "json" | "yaml"));
      process.exitCode = analysisExitCode(analysis);
    });
  program
    .command("doctor")
    .description("finds out what this machine can do for the mesh")
    .command("node")
    .description("which ways of capture work on this node, which one an agent would choose, and why")
    .option("--redirect-mode <mode>", redirectModeHelp, "auto")
    .option("-o, --output <format>", "table, wide, json or yaml", "table")
    .action(async (flags: Flags) => {
      const { runDoctor } = await import("./doctor.js");
      const { parseOutputFormat } = await import("../cli/view.js");
      const { redirectModes } = await import("../node/capture/support.js");
      const { parseChoice } = await import("./flags.js");
      const mode = parseChoice("--redirect-mode", text(flags, "redirectMode") ?? "auto", redirectModes);
      process.exitCode = await runDoctor(mode, parseOutputFormat(text(flags, "output") ?? "table"));
    });
  program
    .command("version")
    .description("the version of this build")
    .action(async () => {
      const { readVersion } = await import("./version.js");
      process.stdout.write(`${readVersion()}\n`);
    });
}

const repeated = (value: string, before: readonly string[]): readonly string[] => [...before, value];

function addInstallCommands(program: Command): void {
  program
    .command("manifest")
    .description("the objects of an installation on a cluster")
    .command("generate")
    .description("prints them as YAML, for kubectl apply")
    .option("--set <name=value>", "a value of the installation; may be repeated", repeated, [])
    .action(async (flags: { readonly set: readonly string[] }) => {
      const { renderObjects, renderYaml } = await import("../manifests/render.js");
      const { readValues } = await import("../manifests/values.js");
      process.stdout.write(renderYaml(renderObjects(readValues(flags.set))));
    });
  program
    .command("node-profiles")
    .description("writes the seccomp profiles of the node's containers where a kubelet looks for them")
    .requiredOption("--to <dir>", "the kubelet's directory seccomp")
    .action(async (flags: { readonly to: string }) => {
      const path = await import("node:path");
      const { seccompProfiles } = await import("../manifests/profiles.js");
      const { systemFiles } = await import("../platform/files.js");
      for (const [name, profile] of seccompProfiles()) {
        const file = path.join(flags.to, name);
        await systemFiles.makeDirectory(path.dirname(file), 0o755);
        await systemFiles.writeAtomic(file, profile, { mode: 0o644 });
      }
    });
}

async function main(argv: readonly string[]): Promise<void> {
  expectBrokenPipes(argv[2]);
  const program = new Command("meltemi");
  program
    .description("Meltemi, a sidecarless service mesh.")
    .showHelpAfterError("(meltemi --help tells more)")
    .enablePositionalOptions();
  addReadingCommands(program);
  addCaCommands(program);
  addReadingFlags(
    program.command("logs").description("logs of the control plane, the agents and the data planes"),
  )
    .option("--node <name>", "of this node only")
    .option("-f, --follow", "go on as lines are written")
    .option("--tail <lines>", "how many lines of each log to begin with", "20")
    .action(async (flags: Flags) => {
      const { logsCommand } = await import("../cli/logs.js");
      await logsCommand(
        {
          runDir: text(flags, "runDir"),
          node: text(flags, "node"),
          follow: flags["follow"] === true,
          tail: text(flags, "tail") ?? "20",
        },
        endSignal(),
      );
    });
  addOfflineCommands(program);
  addInstallCommands(program);
  await addProcessCommands(program, argv[2]);
  await program.parseAsync([...argv]);
}

main(process.argv).catch((error: unknown) => {
  process.stderr.write(`meltemi: ${messageOf(error)}\n`);
  if (error instanceof MeltemiError && error.hint !== undefined) process.stderr.write(`  ${error.hint}\n`);
  process.exit(error instanceof MeltemiError && error.code === "bad_input" ? 2 : 1);
});
