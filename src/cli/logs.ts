/** `logs`: prints the log files of an instance, and goes on as lines are written. */
import { existsSync, readdirSync } from "node:fs";
import { open, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { MeltemiError } from "../domain/error.js";
import { systemClock, type Clock } from "../platform/clock.js";
import { systemFiles } from "../platform/files.js";
import { defaultRunDir, instanceShape } from "./run-directory.js";

export interface LogFile {
  /** `control-plane`, `node-NODE`, or `NODE/FILE` for a node's own. */
  readonly name: string;
  readonly node: string | undefined;
  readonly path: string;
}

const logsIn = (directory: string): string[] =>
  existsSync(directory)
    ? readdirSync(directory)
        .filter((name) => name.endsWith(".log"))
        .sort()
    : [];

/** The log files below a state directory: of the processes, and of each node's data plane. */
export function findLogs(stateDir: string): LogFile[] {
  const processes = logsIn(join(stateDir, "logs")).map((file) => {
    const name = basename(file, ".log");
    return {
      name,
      node: name.startsWith("node-") ? name.slice("node-".length) : undefined,
      path: join(stateDir, "logs", file),
    };
  });
  const nodesDir = join(stateDir, "nodes");
  const nodes = existsSync(nodesDir) ? readdirSync(nodesDir).sort() : [];
  return [
    ...processes,
    ...nodes.flatMap((node) =>
      logsIn(join(nodesDir, node, "logs")).map((file) => ({
        name: `${node}/${basename(file, ".log")}`,
        node,
        path: join(nodesDir, node, "logs", file),
      })),
    ),
  ];
}

async function readFrom(path: string, offset: number): Promise<{ text: string; end: number }> {
  const file = await open(path, "r").catch(() => undefined);
  if (!file) return { text: "", end: 0 };
  try {
    const { size } = await file.stat();
    // Shorter than before: it was emptied to keep it within bounds.
    const start = size < offset ? 0 : offset;
    const buffer = Buffer.alloc(size - start);
    const { bytesRead } = await file.read(buffer, 0, buffer.length, start);
    return { text: buffer.subarray(0, bytesRead).toString("utf8"), end: start + bytesRead };
  } finally {
    await file.close();
  }
}

/** How much of the end of a log is looked at for its last lines. */
const tailBytes = 256 * 1024;
const followEveryMs = 200;

class Follower {
  #offset = 0;
  #rest = "";

  constructor(readonly file: LogFile) {}

  async tail(lines: number): Promise<string[]> {
    const size = await stat(this.file.path).then(
      (info) => info.size,
      () => 0,
    );
    const { text, end } = await readFrom(this.file.path, Math.max(0, size - tailBytes));
    this.#offset = end;
    const all = text.split("\n");
    this.#rest = all.pop() ?? "";
    return lines === 0 ? [] : all.slice(-lines);
  }

  async more(): Promise<string[]> {
    const { text, end } = await readFrom(this.file.path, this.#offset);
    this.#offset = end;
    const all = `${this.#rest}${text}`.split("\n");
    this.#rest = all.pop() ?? "";
    return all;
  }
}

export interface LogsOptions {
  readonly node: string | undefined;
  readonly follow: boolean;
  readonly tailLines: number;
}

/** Prints what is there and, when following, what comes, until the signal. New files (of new nodes) are taken up from their beginning. */
export async function printLogs(
  stateDir: string,
  options: LogsOptions,
  print: (name: string, line: string) => void,
  clock: Clock,
  signal: AbortSignal,
): Promise<void> {
  const followers = new Map<string, Follower>();
  const wanted = (): LogFile[] =>
    findLogs(stateDir).filter(({ node }) => options.node === undefined || node === options.node);
  for (const file of wanted()) {
    const follower = new Follower(file);
    followers.set(file.path, follower);
    for (const line of await follower.tail(options.tailLines)) print(file.name, line);
  }
  if (!options.follow) return;
  while (!signal.aborted) {
    for (const file of wanted()) if (!followers.has(file.path)) followers.set(file.path, new Follower(file));
    for (const follower of followers.values())
      for (const line of await follower.more()) print(follower.file.name, line);
    await clock.sleep(followEveryMs, { signal }).catch(() => undefined);
  }
}

/** The command: finds the state directory through the run directory's instance. */
export async function logsCommand(
  flags: {
    readonly runDir: string | undefined;
    readonly node: string | undefined;
    readonly follow: boolean;
    readonly tail: string;
  },
  signal: AbortSignal,
): Promise<void> {
  const runDir = flags.runDir ?? defaultRunDir(process.env, process.getuid?.() ?? 0);
  const found = await systemFiles.readIfPresent(join(runDir, "instance.json"));
  if (!found) {
    throw new MeltemiError("unavailable", `no standalone runs in ${runDir}`, {
      hint: `name its run directory with --run-dir (or MELTEMI_RUN_DIR)`,
    });
  }
  if (!/^\d{1,6}$/.test(flags.tail))
    throw new MeltemiError("bad_input", `--tail is "${flags.tail}", expected a number of lines`);
  const { stateDir } = instanceShape.parse(JSON.parse(found.toString("utf8")));
  await printLogs(
    stateDir,
    { node: flags.node, follow: flags.follow, tailLines: Number(flags.tail) },
    (name, line) => void process.stdout.write(`${name}: ${line}\n`),
    systemClock,
    signal,
  );
}
