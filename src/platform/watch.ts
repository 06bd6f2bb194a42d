import { watch, type FSWatcher } from "chokidar";
import { messageOf } from "../domain/error.js";
import type { Cancel, Clock } from "./clock.js";

export interface WatchOptions {
  readonly clock: Clock;
  readonly signal: AbortSignal;
  /** Called with the paths that changed (absolute), after they have been quiet. Never called twice at the same time. */
  readonly onChange: (paths: ReadonlySet<string>) => Promise<void> | void;
  /** Something went wrong while watching, or `onChange` threw. Watching goes on. */
  readonly onError: (message: string, error: unknown) => void;
  /** Quiet time before `onChange`. */
  readonly debounceMs?: number;
  /** The longest that changes wait while others keep coming. */
  readonly longestWaitMs?: number;
  /** Period of looking when the kernel cannot watch (inotify's limits, network file systems). */
  readonly pollMs?: number;
  /** Poll from the beginning. */
  readonly poll?: boolean;
}

/**
 * Watches a directory and all below it, through symbolic links too (a ConfigMap's files are such). Resolves when every
 * existing file is watched: read the directory afterwards, and no change is missed. What exists is not reported. Falls
 * back to polling when inotify is exhausted; everything then counts as changed once. Ends with the signal.
 */
export async function watchDirectory(directory: string, options: WatchOptions): Promise<void> {
  const batch = new Batch(options);
  let watcher: FSWatcher | undefined;
  let polling = options.poll ?? false;

  const start = async (): Promise<void> => {
    const current = watch(directory, {
      ignoreInitial: true,
      followSymlinks: true,
      atomic: false,
      usePolling: polling,
      interval: options.pollMs ?? 1000,
    });
    watcher = current;
    current.on("all", (_event, path) => batch.add(path));
    await new Promise<void>((resolve) => {
      current.on("ready", resolve);
      current.on("error", (error) => {
        resolve();
        if (current !== watcher || options.signal.aborted) return;
        options.onError("watching failed", error);
        if (!polling && isExhausted(error)) {
          polling = true;
          void restart(current);
        }
      });
      options.signal.addEventListener("abort", () => resolve(), { once: true });
    });
  };

  const restart = async (former: FSWatcher): Promise<void> => {
    await former.close();
    if (options.signal.aborted) return;
    await start();
    // What happened between the two is unknown.
    batch.add(directory);
  };

  if (options.signal.aborted) return;
  options.signal.addEventListener(
    "abort",
    () => {
      batch.end();
      watcher?.close().catch((error: unknown) => options.onError(messageOf(error), error));
    },
    { once: true },
  );
  await start();
}

function isExhausted(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException).code;
  return code === "ENOSPC" || code === "EMFILE" || code === "ENFILE";
}

/** Collects changed paths until they are quiet, and hands them over one batch at a time. */
class Batch {
  readonly #options: WatchOptions;
  #paths = new Set<string>();
  #firstAt = 0;
  #cancel: Cancel | undefined;
  #delivering = false;

  constructor(options: WatchOptions) {
    this.#options = options;
  }

  add(path: string): void {
    if (this.#options.signal.aborted) return;
    const { clock, debounceMs = 50, longestWaitMs = 500 } = this.#options;
    if (this.#paths.size === 0) this.#firstAt = clock.monotonic();
    this.#paths.add(path);
    if (this.#delivering) return;
    const waited = clock.monotonic() - this.#firstAt;
    this.#cancel?.();
    this.#cancel = clock.schedule(
      Math.min(debounceMs, Math.max(0, longestWaitMs - waited)),
      () => void this.#deliver(),
    );
  }

  end(): void {
    this.#cancel?.();
    this.#paths.clear();
  }

  async #deliver(): Promise<void> {
    this.#delivering = true;
    try {
      while (this.#paths.size > 0) {
        const paths = this.#paths;
        this.#paths = new Set();
        await this.#options.onChange(paths);
      }
    } catch (error) {
      this.#options.onError("handling a change failed", error);
    } finally {
      this.#delivering = false;
    }
    // A batch whose predecessor failed must not wait for the next change.
    const [next] = this.#paths;
    if (next !== undefined) this.add(next);
  }
}
