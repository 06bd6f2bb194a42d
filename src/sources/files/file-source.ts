import { stat } from "node:fs/promises";
import { MeltemiError, messageOf } from "../../domain/error.js";
import type { Problem } from "../../domain/problem.js";
import type { Source, SourceBatch } from "../../domain/source-event.js";
import { every, type Cancel, type Clock } from "../../platform/clock.js";
import type { Files } from "../../platform/files.js";
import type { Logger } from "../../platform/logger.js";
import { watchDirectory } from "../../platform/watch.js";
import { listConfiguration, readConfiguration, visible, type FileStamp } from "./directory.js";
import { DirectoryState } from "./directory-state.js";
import { LastGoodFiles } from "./last-good.js";
import { isDoubtful, readFileState, unreadableFileState, type FileState } from "./file-state.js";

export interface FileSourceOptions {
  readonly directory: string;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Quiet time after a change before files are read. */
  readonly settleMs?: number;
  /** How long a version that may be half written is left alone before it is believed. */
  readonly doubtMs?: number;
  /** Where the last good form of each file is kept for the next start; undefined: it lasts as long as the process. */
  readonly lastGood?: { readonly directory: string; readonly files: Files } | undefined;
  /** Period of looking at all files, for what the kernel's watch may miss. */
  readonly rescanMs?: number;
}

/** How long a file's times may stand still while it is written (a tick is at most 10 ms). */
const stampTickMs = 20;
/** In how many times `doubtMs` a file that keeps changing is believed. */
const longestDoubt = 10;
const defaults = { lastGood: undefined, settleMs: 20, doubtMs: 100, rescanMs: 5_000 };

function sameStamp(a: FileStamp | undefined, b: FileStamp): boolean {
  return a !== undefined && a.inode === b.inode && a.size === b.size && a.changedAtMs === b.changedAtMs;
}

/**
 * A directory of Kubernetes YAML as a source: `*.yaml`, `*.yml`, `*.json`, recursively. The first
 * stop of a user's object on a machine without a cluster; `model` follows.
 *
 * - What is wrong changes nothing: the last good form of an object stays until a good one comes.
 * - An object in two files is that of the first file in path order; the other is reported.
 * - A version that lost objects or does not parse is believed only after `doubtMs` without a change,
 *   so that a file written in two parts, or replaced by removal and creation, is seen once.
 * - A directory that disappears removes nothing.
 */
export class FileSource implements Source {
  readonly #options: Required<FileSourceOptions>;

  constructor(options: FileSourceOptions) {
    this.#options = { ...defaults, ...options };
  }

  /** @throws MeltemiError `not_found` or `system` where the directory cannot be listed at the start */
  async run(onBatch: (batch: SourceBatch) => void, signal: AbortSignal): Promise<void> {
    const { directory, clock, logger, settleMs, rescanMs } = this.#options;
    await requireDirectory(directory);
    const reader = new Reader(this.#options, onBatch, signal);
    await reader.start();
    if (signal.aborted) return;
    const onError = (message: string, error: unknown): void =>
      logger.warn("configuration directory not watched", {
        directory,
        error: `${message}: ${messageOf(error)}`,
      });
    const rescan = (): Promise<void> => reader.refresh();
    await watchDirectory(directory, {
      clock,
      signal,
      debounceMs: settleMs,
      longestWaitMs: 5 * settleMs,
      visible,
      onChange: rescan,
      onError,
    });
    await rescan();
    await every(clock, rescanMs, rescan, {
      signal,
      background: true,
      onError: (error) => onError("looking at the files failed", error),
    });
    await reader.finished();
  }
}

async function requireDirectory(directory: string): Promise<void> {
  const found = await stat(directory).catch(() => undefined);
  if (found?.isDirectory()) return;
  throw new MeltemiError(
    "not_found",
    found ? `${directory} is not a directory` : `there is no directory ${directory}`,
    {
      hint: "name a directory that holds Kubernetes YAML",
    },
  );
}

/** A version (undefined: the file is gone) that is not believed yet, in monotonic milliseconds. */
interface Doubt {
  readonly stamp: FileStamp | undefined;
  readonly sinceMs: number;
  /** Since when the file has had no version that was believed. */
  readonly firstMs: number;
}

/** Looks at the files, one look at a time, and tells what changed. */
class Reader {
  readonly #state = new DirectoryState();
  readonly #stamps = new Map<string, FileStamp>();
  readonly #doubts = new Map<string, Doubt>();
  /** Whether the last look read a file that had only just been written. */
  #fresh = false;
  #lookAgain: Cancel | undefined;
  readonly #lastGood: LastGoodFiles | undefined;
  /** Files whose kept form is to be brought up to date. */
  readonly #toKeep = new Set<string>();
  #queue: Promise<void> = Promise.resolve();
  #keeping: Promise<void> = Promise.resolve();

  constructor(
    private readonly options: Required<FileSourceOptions>,
    private readonly onBatch: (batch: SourceBatch) => void,
    private readonly signal: AbortSignal,
  ) {
    const { directory, lastGood } = options;
    this.#lastGood = lastGood && new LastGoodFiles(directory, lastGood.directory, lastGood.files);
  }

  /** The first look believes everything: there is nothing that could be lost. */
  async start(): Promise<void> {
    const stamps = await listConfiguration(this.options.directory);
    for (const stamp of stamps) await this.#read(stamp, true);
    this.#tell([]);
    await this.#keepLastGood();
    await this.#forgetOthers(stamps);
  }

  /** Looks at all files, after the looks that are under way. */
  refresh(): Promise<void> {
    const next = this.#queue.then(() => this.#look());
    this.#queue = next.catch(() => undefined);
    return next;
  }

  async finished(): Promise<void> {
    this.#lookAgain?.();
    await this.#queue;
    await this.#keeping;
  }

  async #look(): Promise<void> {
    if (this.signal.aborted) return;
    let stamps: FileStamp[];
    try {
      stamps = await listConfiguration(this.options.directory);
    } catch (error) {
      this.#tell([
        {
          severity: "error",
          location: this.options.directory,
          path: "",
          message: `${messageOf(error)}; all that it held stays in force`,
        },
      ]);
      return;
    }
    this.#fresh = false;
    const present = new Set(stamps.map(({ path }) => path));
    for (const path of this.#state.paths()) if (!present.has(path)) this.#vanish(path);
    for (const stamp of stamps) {
      if (sameStamp(this.#stamps.get(stamp.path), stamp)) this.#doubts.delete(stamp.path);
      else await this.#read(stamp, false);
    }
    this.#tell([]);
    this.#scheduleLook();
    this.#keepSoon();
  }

  async #read(stamp: FileStamp, believe: boolean): Promise<void> {
    const { path } = stamp;
    const atStart = believe && this.#lastGood !== undefined;
    const previous = atStart ? await this.#recall(path) : this.#state.file(path);
    const readAtMs = this.options.clock.now();
    try {
      const text = await readConfiguration(this.options.directory, stamp);
      const state = readFileState(path, text, previous);
      if (!believe && isDoubtful(text, state, previous) && this.#doubted(path, stamp)) return;
      this.#state.set(path, state);
    } catch (error) {
      if (!believe && this.#doubted(path, stamp)) return;
      const hint = error instanceof MeltemiError ? error.hint : undefined;
      this.#state.set(
        path,
        unreadableFileState(
          path,
          { message: messageOf(error), ...(hint !== undefined && { hint }) },
          previous,
        ),
      );
    }
    // File systems keep time coarsely: two writes in one tick may look alike, so a fresh stamp proves nothing.
    if (Math.abs(readAtMs - stamp.changedAtMs) < stampTickMs) this.#fresh = true;
    else this.#stamps.set(path, stamp);
    this.#doubts.delete(path);
    if (this.#lastGood) this.#toKeep.add(path);
  }

  #vanish(path: string): void {
    if (this.#doubted(path, undefined)) return;
    this.#state.remove(path);
    if (this.#lastGood) this.#toKeep.add(path);
    this.#stamps.delete(path);
    this.#doubts.delete(path);
  }

  /**
   * Whether this version is still too young to be believed. The time begins anew with each version, but
   * a file that is rewritten without end is believed at last.
   */
  #doubted(path: string, stamp: FileStamp | undefined): boolean {
    const nowMs = this.options.clock.monotonic();
    const doubt = this.#doubts.get(path);
    const same = doubt && (stamp ? sameStamp(doubt.stamp, stamp) : doubt.stamp === undefined);
    const sinceMs = same ? doubt.sinceMs : nowMs;
    const firstMs = doubt?.firstMs ?? nowMs;
    this.#doubts.set(path, { stamp, sinceMs, firstMs });
    const { doubtMs } = this.options;
    return nowMs - sinceMs < doubtMs && nowMs - firstMs < longestDoubt * doubtMs;
  }

  async #recall(path: string): Promise<FileState | undefined> {
    try {
      return await this.#lastGood?.recall(path);
    } catch (error) {
      this.options.logger.warn("last good configuration not read", { path, error: messageOf(error) });
      return undefined;
    }
  }

  /** Of files that went away while nobody looked nothing may come back with a later file of the same name. */
  async #forgetOthers(stamps: readonly FileStamp[]): Promise<void> {
    try {
      await this.#lastGood?.forgetOthers(stamps.map(({ path }) => path));
    } catch (error) {
      this.options.logger.warn("last good configuration not removed", { error: messageOf(error) });
    }
  }

  /** Beside the looks, so that a slow disk delays no change. */
  #keepSoon(): void {
    if (this.#toKeep.size > 0) this.#keeping = this.#keeping.then(() => this.#keepLastGood());
  }

  async #keepLastGood(): Promise<void> {
    for (const path of [...this.#toKeep]) {
      // Before the state is taken: a change while it is written is to be kept too.
      this.#toKeep.delete(path);
      const state = this.#state.file(path);
      try {
        if (state) await this.#lastGood?.keep(path, state);
        else await this.#lastGood?.forget(path);
      } catch (error) {
        this.#toKeep.add(path);
        this.options.logger.warn("last good configuration not kept", { path, error: messageOf(error) });
      }
    }
  }

  /** The next look that is due without any change: a doubt grows old, or a stamp can be relied on. */
  #scheduleLook(): void {
    this.#lookAgain?.();
    this.#lookAgain = undefined;
    const { clock, directory, doubtMs, logger } = this.options;
    const due = [...this.#doubts.values()].map(({ sinceMs }) => sinceMs + doubtMs);
    if (this.#fresh) due.push(clock.monotonic() + 2 * stampTickMs);
    if (due.length === 0) return;
    const delayMs = Math.max(1, Math.min(...due) - clock.monotonic());
    const onError = (error: unknown): void => {
      logger.error("configuration change not handled", { directory, error: messageOf(error) });
    };
    this.#lookAgain = clock.schedule(delayMs, () => void this.refresh().catch(onError), {
      signal: this.signal,
    });
  }

  #tell(problems: readonly Problem[]): void {
    if (this.signal.aborted) return;
    const batch = this.#state.takeBatch(problems);
    if (!batch) return;
    this.options.logger.debug("configuration changed", {
      events: batch.events.length,
      problems: batch.problems.length,
    });
    this.onBatch(batch);
  }
}
