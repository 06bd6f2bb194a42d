import { watch, type FSWatcher } from "node:fs";
import { readdir, realpath, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";

/** The kernel's watch of one directory, not of what is below its directories. */
export type WatchOne = (
  path: string,
  onEvent: (event: "rename" | "change", name: string | null) => void,
) => FSWatcher;

export const kernelWatch: WatchOne = (path, onEvent) => watch(path, onEvent);

export interface WatchedTreeOptions {
  readonly root: string;
  /** Whether a directory of this name is entered. */
  readonly visible: (name: string) => boolean;
  readonly watchOne: WatchOne;
  /** `structural`: a name came, went or stands for something else. */
  readonly onEvent: (structural: boolean) => void;
}

interface Watched {
  readonly watcher: FSWatcher;
  /** What stood at the path when it was watched: a watch stays with the directory, not with its name. */
  readonly id: string;
  /** The names that matter in a directory that only a link led to; undefined: all. */
  readonly names: ReadonlySet<string> | undefined;
}

type Names = Watched["names"];

/**
 * One kernel watch for each directory of a tree, and for each directory that a link to a file leads to. A watch
 * of a directory tells of all its files, replaced ones too; a watch of a file ends with the file that it was
 * set on, and what is renamed over it while it is set anew is lost.
 */
export class WatchedTree {
  readonly #options: WatchedTreeOptions;
  readonly #watched = new Map<string, Watched>();
  #closed = false;

  constructor(options: WatchedTreeOptions) {
    this.#options = options;
  }

  /**
   * Watches the directories that are there now, and no others. A directory is watched before it is listed, so
   * that what is read after this call and changes later is told. Returns what cannot be watched.
   */
  async align(): Promise<readonly unknown[]> {
    const errors: unknown[] = [];
    const wanted = new Map<string, Names>();
    const links: string[] = [];
    await this.#enter(this.#options.root, wanted, links, errors);
    for (const [path, names] of await directoriesOf(links)) {
      if (wanted.has(path)) continue;
      wanted.set(path, names);
      await this.#watch(path, names).catch((error: unknown) => errors.push(error));
    }
    for (const path of [...this.#watched.keys()]) if (!wanted.has(path)) this.#forget(path);
    return errors;
  }

  /** Whether each watch still is on what its path names; false too while the root is not there. */
  async aligned(): Promise<boolean> {
    if (!this.#watched.has(this.#options.root)) return false;
    const ids = await Promise.all(
      [...this.#watched].map(async ([path, { id }]) => (await idOf(path).catch(() => "")) === id),
    );
    return ids.every(Boolean);
  }

  close(): void {
    this.#closed = true;
    for (const path of [...this.#watched.keys()]) this.#forget(path);
  }

  async #enter(path: string, wanted: Map<string, Names>, links: string[], errors: unknown[]): Promise<void> {
    wanted.set(path, undefined);
    try {
      await this.#watch(path, undefined);
      for (const entry of await readdir(path, { withFileTypes: true })) {
        if (!this.#options.visible(entry.name)) continue;
        const below = join(path, entry.name);
        if (entry.isDirectory()) await this.#enter(below, wanted, links, errors);
        else if (entry.isSymbolicLink()) links.push(below);
      }
    } catch (error) {
      // What went away meanwhile is told by its parent's watch.
      if (!isAbsent(error)) errors.push(error);
    }
  }

  async #watch(path: string, names: Names): Promise<void> {
    const id = await idOf(path);
    if (this.#closed) return;
    const before = this.#watched.get(path);
    if (before?.id === id) {
      this.#watched.set(path, { ...before, names });
      return;
    }
    this.#forget(path);
    const { watchOne, onEvent } = this.#options;
    const watcher = watchOne(path, (event, name) => {
      const relevant = this.#watched.get(path)?.names;
      if (relevant === undefined || name === null || relevant.has(name)) onEvent(event === "rename");
    });
    // A watch that ends by itself is set again by the next look at the tree.
    watcher.on("error", () => {
      this.#forget(path);
      onEvent(true);
    });
    this.#watched.set(path, { watcher, id, names });
  }

  #forget(path: string): void {
    this.#watched.get(path)?.watcher.close();
    this.#watched.delete(path);
  }
}

async function idOf(path: string): Promise<string> {
  const { dev, ino } = await stat(path);
  return `${dev}:${ino}`;
}

/** The directories that links to files lead to, and the files' names there. Links to directories are not followed. */
async function directoriesOf(links: readonly string[]): Promise<Map<string, Set<string>>> {
  const found = new Map<string, Set<string>>();
  for (const link of links) {
    const target = await realpath(link).catch(() => undefined);
    if (target === undefined || (await stat(target).catch(() => undefined))?.isFile() !== true) continue;
    const names = found.get(dirname(target)) ?? new Set<string>();
    found.set(dirname(target), names.add(basename(target)));
  }
  return found;
}

function isAbsent(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === "ENOENT" || code === "ENOTDIR";
}
