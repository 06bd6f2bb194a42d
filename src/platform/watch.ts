import { every, type Cancel, type Clock } from "./clock.js";
import { kernelWatch, WatchedTree, type WatchOne } from "./watched-tree.js";

export interface WatchOptions {
  readonly clock: Clock;
  readonly signal: AbortSignal;
  /** Something below the directory may have changed: look at all of it. Never called twice at the same time. */
  readonly onChange: () => Promise<void> | void;
  /** Something went wrong while watching, or `onChange` threw. Watching goes on. */
  readonly onError: (message: string, error: unknown) => void;
  /** Which directories are entered, by name; all unless told. */
  readonly visible?: (name: string) => boolean;
  /** Quiet time before `onChange`. */
  readonly debounceMs?: number;
  /** The longest that changes wait while others keep coming. */
  readonly longestWaitMs?: number;
  /** Period of making sure that what is watched is what is there, and of looking at what cannot be watched. */
  readonly recheckMs?: number;
  /** The kernel's watch of one directory. */
  readonly watchOne?: WatchOne;
}

/**
 * Watches a directory and all below it, and the files that its links lead to (a ConfigMap's are such). Resolves
 * when everything there is watched: read the directory afterwards, and no change is missed. What exists is not
 * reported. Where the kernel cannot watch (inotify's limits), `onChange` is called every `recheckMs` instead. Ends
 * with the signal.
 */
export async function watchDirectory(directory: string, options: WatchOptions): Promise<void> {
  const { clock, signal, onError, recheckMs = 1_000 } = options;
  if (signal.aborted) return;
  let structural = false;
  let unwatched = false;

  const tree = new WatchedTree({
    root: directory,
    visible: options.visible ?? (() => true),
    watchOne: options.watchOne ?? kernelWatch,
    onEvent: (isStructural) => {
      structural ||= isStructural;
      quiet.touch();
    },
  });
  const align = async (): Promise<void> => {
    const [error] = await tree.align();
    if (error !== undefined && !unwatched) onError("watching failed, looking regularly instead", error);
    unwatched = error !== undefined;
  };
  const quiet = new Quiet(options, async () => {
    if (structural) {
      structural = false;
      await align();
    }
    await options.onChange();
  });
  signal.addEventListener(
    "abort",
    () => {
      quiet.end();
      tree.close();
    },
    { once: true },
  );
  await align();
  const recheck = async (): Promise<void> => {
    if (!unwatched && (await tree.aligned())) return;
    structural = true;
    quiet.touch();
  };
  void every(clock, recheckMs, recheck, {
    signal,
    background: true,
    onError: (error) => onError("watching failed", error),
  });
}

/** Runs a task once touches have been quiet, one run at a time, and again where one came meanwhile. */
class Quiet {
  readonly #options: WatchOptions;
  readonly #task: () => Promise<void>;
  #touched = false;
  #firstAtMs = 0;
  #cancel: Cancel | undefined;
  #running = false;

  constructor(options: WatchOptions, task: () => Promise<void>) {
    this.#options = options;
    this.#task = task;
  }

  touch(): void {
    const { clock, signal, debounceMs = 50, longestWaitMs = 500 } = this.#options;
    if (signal.aborted) return;
    if (!this.#touched) this.#firstAtMs = clock.monotonic();
    this.#touched = true;
    if (this.#running) return;
    const leftMs = Math.max(0, longestWaitMs - (clock.monotonic() - this.#firstAtMs));
    this.#cancel?.();
    this.#cancel = clock.schedule(Math.min(debounceMs, leftMs), () => void this.#run());
  }

  end(): void {
    this.#cancel?.();
  }

  #again(): void {
    if (this.#touched) this.touch();
  }

  async #run(): Promise<void> {
    this.#running = true;
    this.#touched = false;
    try {
      await this.#task();
    } catch (error) {
      this.#options.onError("handling a change failed", error);
    } finally {
      this.#running = false;
    }
    this.#again();
  }
}
