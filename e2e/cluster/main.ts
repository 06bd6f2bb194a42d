/** `npm run cluster`: a Kubernetes cluster on this machine, in namespaces of its own. */
import { existsSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { Command, InvalidArgumentError } from "commander";
import { MeltemiError } from "../../src/domain/error.js";
import { Cluster } from "./cluster.js";
import { readDescription } from "./image.js";
import { Layout } from "./layout.js";
import { Machine } from "./machine.js";
import { buildPrograms } from "./programs.js";

/** The repository, from dist/e2e/cluster. */
const root = dirname(dirname(dirname(dirname(fileURLToPath(import.meta.url)))));
export const module = join(root, "e2e/cluster/go");

const say = (text: string): void => void process.stderr.write(`${text}\n`);

function count(text: string): number {
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError("a whole number is wanted");
  return Number(text);
}

function layoutOf(directory: string): Layout {
  const absolute = resolve(directory);
  if (/^\/(run|proc|sys|dev)(\/|$)/.test(absolute) || absolute === "/")
    throw new MeltemiError(
      "bad_input",
      `--state ${directory}: it must not be below /run, /proc, /sys or /dev`,
    );
  return new Layout(absolute);
}

const program = new Command("cluster")
  .description("A Kubernetes cluster on this machine, in namespaces of its own. Needs root.")
  .option(
    "--state <directory>",
    "where it keeps everything",
    process.env.MELTEMI_CLUSTER ?? "/var/lib/meltemi-cluster",
  )
  .enablePositionalOptions();

const layout = (): Layout => layoutOf(program.opts<{ state: string }>().state);
const find = (): Cluster => Cluster.find(layout());

/** Says what is done and how long it took. */
async function timed(what: string, task: () => Promise<void>): Promise<void> {
  const since = performance.now();
  await task();
  say(`${what} (${((performance.now() - since) / 1000).toFixed(1)} s)`);
}

program
  .command("up")
  .description("builds its programs if need be, starts it and waits until it serves")
  .option("--nodes <number>", "0 for the API server alone", count, 2)
  .option("--api-server-flag <flag...>", "further flags for kube-apiserver", [])
  .action(async ({ nodes, apiServerFlag }: { nodes: number; apiServerFlag: string[] }) => {
    const where = layout();
    const programs = await buildPrograms(module, say);
    await timed("the cluster is up", async () => {
      const cluster = await Cluster.up(where, { nodes, programs, apiServerFlags: apiServerFlag }, say).catch(
        (error: unknown) => {
          if (
            Machine.find(where) !== undefined &&
            !(error instanceof MeltemiError && error.code === "conflict")
          )
            say(`what has started is left to look at in ${where.logs}, until \`npm run cluster -- down\``);
          throw error;
        },
      );
      say(`kubeconfig: ${cluster.kubeconfig} (in the cluster's network: npm run cluster -- exec -- COMMAND)`);
    });
  });

program
  .command("build")
  .description("builds its programs only")
  .action(() => timed("the programs are there", async () => say(await buildPrograms(module, say))));

program
  .command("down")
  .description("ends it and leaves nothing, also of one that was killed half-way")
  .action(() => timed("the cluster is down", () => Cluster.down(layout())));

program
  .command("load-image")
  .description(
    "gives every node an image: an archive (.tar) or a description (.yaml, .json; see e2e/README.md)",
  )
  .argument("<file...>")
  .action(async (files: string[]) => {
    const cluster = find();
    for (const file of files) {
      if (!existsSync(file)) throw new MeltemiError("not_found", `there is no ${file}`);
      await timed(file, () =>
        cluster.loadImage(
          file.endsWith(".tar") ? { archive: resolve(file) } : readDescription(resolve(file)),
        ),
      );
    }
  });

const passOn = (
  name: string,
  description: string,
  command: (cluster: Cluster, args: string[]) => string[],
): void => {
  program
    .command(name)
    .description(description)
    .helpOption(false)
    .allowUnknownOption()
    .passThroughOptions()
    .argument("[args...]")
    .action(async (args: string[]) => {
      const cluster = find();
      process.exitCode = await cluster.interactive(command(cluster, args));
    });
};
passOn("kubectl", "kubectl as its administrator", (cluster, args) => [
  cluster.layout.program("kubectl"),
  ...args,
]);
passOn("exec", "runs a command in its network, with KUBECONFIG set", (_, args) => args);

program
  .command("status")
  .description("what runs, and how often each program has ended by itself")
  .action(async () => {
    const cluster = find();
    say(`machine: process ${cluster.machine.pid}, ${cluster.layout.directory}`);
    for (const node of cluster.nodes)
      say(`node ${node.name}: ${node.pid === undefined ? "down" : `process ${node.pid}`}`);
    for (const [component, times] of cluster.restarts())
      if (times > 0) say(`${component}: ended ${times} times`);
    process.stdout.write(`${await cluster.kubectl(["get", "nodes,pods", "-A", "-o", "wide"])}\n`);
  });

const node = program.command("node").description("stops, kills, starts and reboots nodes");
node
  .command("stop <name>")
  .description("SIGTERM for all, some time, then its power")
  .action((name: string) => timed(`${name} is down`, () => find().node(name).stop()));
node
  .command("kill <name>")
  .description("its power is cut")
  .action((name: string) => timed(`${name} is down`, () => find().node(name).kill()));
node
  .command("start <name>")
  .description("starts it and waits until it is Ready")
  .action((name: string) => timed(`${name} is Ready`, () => find().startNode(name)));
node
  .command("reboot <name>")
  .description("kill and start")
  .option("--lose-state", "with an empty disk", false)
  .action((name: string, { loseState }: { loseState: boolean }) =>
    timed(`${name} is Ready`, () => find().rebootNode(name, loseState)),
  );
node
  .command("exec <name> <command...>")
  .description("runs a command in the node's namespaces")
  .passThroughOptions()
  .allowUnknownOption()
  .action(async (name: string, command: string[]) => {
    process.stdout.write(`${await find().node(name).run(command)}\n`);
  });

if (process.getuid?.() !== 0) {
  say("the cluster needs root: it makes namespaces, mounts and cgroups");
  process.exitCode = 1;
} else {
  program.parseAsync().catch((error: unknown) => {
    const hint = error instanceof MeltemiError && error.hint !== undefined ? `\n${error.hint}` : "";
    say(`${error instanceof Error ? error.message : String(error)}${hint}`);
    process.exitCode = 1;
  });
}
