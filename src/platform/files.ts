import { randomBytes } from "node:crypto";
import { constants, type Dirent } from "node:fs";
import { mkdir, open, readFile, readdir, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { MeltemiError, messageOf } from "../domain/error.js";

/** Files as an argument. Every failure is a MeltemiError that names the path. */
export interface Files {
  /** @throws MeltemiError `not_found` or `system` */
  read(path: string): Promise<Buffer>;
  /** `undefined` when there is no such file. */
  readIfPresent(path: string): Promise<Buffer | undefined>;
  /**
   * Replaces the file as a whole: written beside it, synced, renamed, directory synced. A reader sees the old or the new
   * contents, also after a crash. `mode` are the permission bits (0600 unless told), applied regardless of the umask.
   */
  writeAtomic(path: string, data: string | Uint8Array, options?: { readonly mode?: number }): Promise<void>;
  /** Also the parents; an existing directory is left as it is. */
  makeDirectory(path: string, mode: number): Promise<void>;
  /** Names in a directory, sorted; empty when it does not exist. */
  list(path: string): Promise<readonly FileEntry[]>;
  /** Removes a file or a directory with all below it; absent is fine. */
  remove(path: string): Promise<void>;
}

export interface FileEntry {
  readonly name: string;
  readonly kind: "file" | "directory" | "other";
}

export const systemFiles: Files = {
  read: (path) => within("read", path, () => readFile(path)),
  readIfPresent: async (path) => {
    try {
      return await within("read", path, () => readFile(path));
    } catch (error) {
      if (error instanceof MeltemiError && error.code === "not_found") return undefined;
      throw error;
    }
  },
  writeAtomic: (path, data, options = {}) =>
    within("write", path, () => replace(path, data, options.mode ?? 0o600)),
  makeDirectory: (path, mode) =>
    within("make the directory", path, async () => {
      await mkdir(path, { recursive: true, mode });
    }),
  list: async (path) => {
    try {
      const found = await within("list", path, () => readdir(path, { withFileTypes: true }));
      return found.map(entryOf).sort((a, b) => (a.name < b.name ? -1 : 1));
    } catch (error) {
      if (error instanceof MeltemiError && error.code === "not_found") return [];
      throw error;
    }
  },
  remove: (path) => within("remove", path, () => rm(path, { recursive: true, force: true })),
};

function entryOf(entry: Dirent): FileEntry {
  return { name: entry.name, kind: entry.isFile() ? "file" : entry.isDirectory() ? "directory" : "other" };
}

async function replace(path: string, data: string | Uint8Array, mode: number): Promise<void> {
  const directory = dirname(path);
  // In the same directory, because a rename is atomic only within one file system; hidden from those who list it.
  const staged = join(directory, `.${basename(path)}.${randomBytes(6).toString("hex")}.tmp`);
  const file = await open(
    staged,
    constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW,
    0o600,
  );
  try {
    try {
      await file.writeFile(data);
      await file.chmod(mode);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(staged, path);
  } catch (error) {
    await rm(staged, { force: true });
    throw error;
  }
  const handle = await open(directory, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function within<T>(action: string, path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    throw new MeltemiError(
      code === "ENOENT" ? "not_found" : "system",
      `Cannot ${action} ${path}: ${messageOf(error)}`,
      {
        cause: error,
      },
    );
  }
}
