import { spawn, type ChildProcess } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { readFile, readdir, stat } from "node:fs/promises";
import { constants } from "node:os";
import { MeltemiError, messageOf } from "../domain/error.js";
import type { Clock } from "./clock.js";
import type { NativeAddon, ProcessHandle } from "./native-addon.js";

/**
 * A process beyond doubt: its number, and when it began (clock ticks after boot, field 22 of /proc/PID/stat), within one
 * boot of the machine. May be written to disk and read by a later agent.
 */
export interface ProcessIdentity {
  readonly pid: number;
  readonly startTicks: number;
  /** /proc/sys/kernel/random/boot_id */
  readonly bootId: string;
}

/** How a process ended; both `null` when it was not our child and only its end is known. */
export interface ProcessExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** A running process that may outlive this one. */
export interface OwnedProcess {
  readonly identity: ProcessIdentity;
  /** Resolves when it has ended; never rejects. */
  readonly exited: Promise<ProcessExit>;
  /** Sends a signal to it alone; `false` when it has ended. */
  signal(signal: NodeJS.Signals): boolean;
  /** SIGTERM, and SIGKILL for it and all its descendants after `graceMs`. */
  stop(graceMs: number): Promise<ProcessExit>;
  /** Lets go of it: it goes on running. */
  release(): void;
}

export interface SpawnOptions {
  readonly command: string;
  readonly args: readonly string[];
  /** The whole environment. */
  readonly env: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** Files that its outputs are appended to (0600 when made). */
  readonly stdoutFile: string;
  readonly stderrFile: string;
}

/** Processes as an argument. */
export interface Processes {
  /**
   * Starts a program in a session of its own, with no pipe to us, so that our end does not end it.
   * @throws MeltemiError `system` when it cannot be started
   */
  spawnDetached(options: SpawnOptions): Promise<OwnedProcess>;
  /** Takes up a process that an earlier agent started; `undefined` when it has ended. */
  adopt(identity: ProcessIdentity): Promise<OwnedProcess | undefined>;
  /** `undefined` when there is no such process. */
  identify(pid: number): Promise<ProcessIdentity | undefined>;
  /**
   * The processes of our own user that run this very program file with these arguments among theirs, in this order and
   * next to each other. For what was started and could not be written down.
   */
  find(command: string, args: readonly string[]): Promise<readonly ProcessIdentity[]>;
}

export function systemProcesses(native: NativeAddon, clock: Clock): Processes {
  const own = (handle: ProcessHandle, bootId: string, exited: Promise<ProcessExit>): OwnedProcess => {
    const identity = { pid: handle.pid, startTicks: handle.startTicks, bootId };
    const signal = (name: NodeJS.Signals): boolean => handle.signal(constants.signals[name]);
    return {
      identity,
      exited,
      signal,
      stop: async (graceMs) => {
        signal("SIGTERM");
        const graceOver = new AbortController();
        const grace = clock.sleep(graceMs, { signal: graceOver.signal }).then(
          () => killTree(native, handle),
          () => undefined,
        );
        const exit = await exited;
        graceOver.abort();
        await grace;
        return exit;
      },
      release: () => handle.close(),
    };
  };

  const identify = async (pid: number): Promise<ProcessIdentity | undefined> => {
    const bootId = await readBootId();
    const handle = openIfPresent(native, pid);
    if (handle === undefined) return undefined;
    handle.close();
    return { pid, startTicks: handle.startTicks, bootId };
  };

  return {
    spawnDetached: async (options) => {
      const bootId = await readBootId();
      const child = await start(options);
      const exited = new Promise<ProcessExit>((resolve) => {
        child.once("exit", (code, signal) => resolve({ code, signal }));
      });
      // Our unreaped child: its number cannot belong to another process yet.
      const handle = native.ProcessHandle.open(child.pid ?? 0);
      child.unref();
      return own(handle, bootId, exited);
    },
    adopt: async (identity) => {
      if ((await readBootId()) !== identity.bootId) return undefined;
      const handle = openIfPresent(native, identity.pid);
      if (handle === undefined) return undefined;
      if (handle.startTicks !== identity.startTicks) {
        handle.close();
        return undefined;
      }
      const exited = handle.exited().then(
        () => ({ code: null, signal: null }),
        () => ({ code: null, signal: null }),
      );
      return own(handle, identity.bootId, exited);
    },
    identify,
    find: async (command, args) => {
      const found: ProcessIdentity[] = [];
      for (const pid of await processNumbers()) {
        const identity = (await runs(pid, command, args)) ? await identify(pid) : undefined;
        if (identity !== undefined) found.push(identity);
      }
      return found;
    },
  };
}

async function processNumbers(): Promise<readonly number[]> {
  return (await readdir("/proc")).filter((name) => /^\d+$/.test(name)).map(Number);
}

/** Whether the process is ours, of that program file (a name can be borrowed, a file on disk cannot), with those arguments. */
async function runs(pid: number, command: string, args: readonly string[]): Promise<boolean> {
  try {
    const [owner, program, wanted, line] = await Promise.all([
      stat(`/proc/${pid}`),
      stat(`/proc/${pid}/exe`),
      stat(command),
      readFile(`/proc/${pid}/cmdline`, "utf8"),
    ]);
    const ours =
      owner.uid === process.geteuid?.() && program.dev === wanted.dev && program.ino === wanted.ino;
    return ours && `\0${line}`.includes(`\0${args.join("\0")}\0`);
  } catch {
    // It has ended, or is not ours to look at.
    return false;
  }
}

function openIfPresent(native: NativeAddon, pid: number): ProcessHandle | undefined {
  try {
    return native.ProcessHandle.open(pid);
  } catch (error) {
    if (/ESRCH|ENOENT|EINVAL/.test(messageOf(error))) return undefined;
    throw error;
  }
}

async function readBootId(): Promise<string> {
  return (await readFile("/proc/sys/kernel/random/boot_id", "utf8")).trim();
}

async function start(options: SpawnOptions): Promise<ChildProcess> {
  const opened: number[] = [];
  try {
    for (const path of [options.stdoutFile, options.stderrFile]) opened.push(openSync(path, "a", 0o600));
    const child = spawn(options.command, options.args, {
      detached: true,
      env: { ...options.env },
      stdio: ["ignore", opened[0], opened[1]],
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    });
    await new Promise<void>((resolve, reject) => {
      child.once("spawn", resolve);
      child.once("error", reject);
    });
    return child;
  } catch (error) {
    throw new MeltemiError("system", `Cannot start ${options.command}: ${messageOf(error)}`, {
      cause: error,
    });
  } finally {
    for (const fd of opened) closeSync(fd);
  }
}

/**
 * SIGKILL for a process and its descendants, parents first so that none starts another meanwhile. Each is held by pidfd
 * and looked at again before the signal.
 */
async function killTree(native: NativeAddon, root: ProcessHandle): Promise<void> {
  const descendants = await descendantsOf(root.pid);
  root.signal(constants.signals.SIGKILL);
  for (const { pid, startTicks } of descendants) {
    const handle = openIfPresent(native, pid);
    if (handle?.startTicks === startTicks) handle.signal(constants.signals.SIGKILL);
    handle?.close();
  }
}

interface ProcessLine {
  readonly pid: number;
  readonly parent: number;
  readonly startTicks: number;
}

async function descendantsOf(root: number): Promise<readonly ProcessLine[]> {
  const children = new Map<number, ProcessLine[]>();
  for (const pid of await processNumbers()) {
    const line = await readStat(pid);
    if (line !== undefined) children.set(line.parent, [...(children.get(line.parent) ?? []), line]);
  }
  const found: ProcessLine[] = [];
  const queue = [root];
  for (let pid = queue.shift(); pid !== undefined; pid = queue.shift()) {
    for (const child of children.get(pid) ?? []) {
      found.push(child);
      queue.push(child.pid);
    }
  }
  return found;
}

async function readStat(pid: number): Promise<ProcessLine | undefined> {
  try {
    const text = await readFile(`/proc/${pid}/stat`, "utf8");
    // The name, in parentheses, may itself contain spaces and parentheses.
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
    return { pid, parent: Number(fields[1]), startTicks: Number(fields[19]) };
  } catch {
    return undefined;
  }
}
