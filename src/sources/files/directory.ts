import { readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { MeltemiError, messageOf } from "../../domain/error.js";

const configuration = /\.(?:ya?ml|json)$/i;
/** Larger files are refused: nobody writes them, and reading one would stop everything else. */
export const largestFileBytes = 256 * 1024 * 1024;

/** What tells one version of a file from the next without reading it. */
export interface FileStamp {
  readonly path: string;
  readonly inode: number;
  readonly size: number;
  readonly changedAtMs: number;
}

/** Whether a file or directory of this name is looked at: not editors' and mounts' hidden ones. */
export function visible(name: string): boolean {
  return !name.startsWith(".") && !name.endsWith("~");
}

/** Compares paths by their parts, so that the order does not depend on how `/` sorts among letters. */
export function comparePaths(a: string, b: string): number {
  const left = a.split("/");
  const right = b.split("/");
  for (let index = 0; index < Math.min(left.length, right.length); index++) {
    const one = left[index] ?? "";
    const other = right[index] ?? "";
    if (one !== other) return one < other ? -1 : 1;
  }
  return left.length - right.length;
}

/** The file's stamp; undefined where there is no regular file. Links to files are followed: a ConfigMap's are such. */
async function stampOf(root: string, path: string): Promise<FileStamp | undefined> {
  try {
    const found = await stat(join(root, path));
    if (!found.isFile()) return undefined;
    return { path, inode: found.ino, size: found.size, changedAtMs: Math.max(found.mtimeMs, found.ctimeMs) };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    // There, but not to be examined: reading it will say why.
    return { path, inode: 0, size: 0, changedAtMs: 0 };
  }
}

async function walk(root: string, below: string, paths: string[]): Promise<void> {
  const entries = await readdir(join(root, below), { withFileTypes: true });
  for (const entry of entries) {
    if (!visible(entry.name)) continue;
    const path = below === "" ? entry.name : `${below}/${entry.name}`;
    if (entry.isDirectory()) {
      await walk(root, path, paths).catch((error: unknown) => {
        // A directory that went away meanwhile has no files; one that may not be read must not look empty.
        if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
      });
    } else if ((entry.isFile() || entry.isSymbolicLink()) && configuration.test(entry.name)) {
      paths.push(path);
    }
  }
}

/**
 * All `*.yaml`, `*.yml` and `*.json` below a directory, in path order. Directories that are links are not entered.
 * @throws MeltemiError `not_found` or `system` where the directory, or one below it, cannot be listed
 */
export async function listConfiguration(root: string): Promise<FileStamp[]> {
  const paths: string[] = [];
  try {
    await walk(root, "", paths);
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === "ENOENT";
    throw new MeltemiError(missing ? "not_found" : "system", `cannot list ${root}: ${messageOf(error)}`, {
      hint: missing ? "name a directory that holds Kubernetes YAML" : "make it readable for this user",
      cause: error,
    });
  }
  const stamps = await Promise.all(paths.map((path) => stampOf(root, path)));
  return stamps.filter((stamp) => stamp !== undefined).sort((a, b) => comparePaths(a.path, b.path));
}

/**
 * A file's text, UTF-8.
 * @throws MeltemiError `not_found`, `bad_input` (too large, not UTF-8) or `system`
 */
export async function readConfiguration(root: string, stamp: FileStamp): Promise<string> {
  if (stamp.size > largestFileBytes) {
    throw new MeltemiError("bad_input", `is ${stamp.size} bytes long, at most ${largestFileBytes} are read`);
  }
  try {
    const bytes = await readFile(join(root, stamp.path));
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (error) {
    if (error instanceof TypeError)
      throw new MeltemiError("bad_input", "is not UTF-8 text", { cause: error });
    const missing = (error as NodeJS.ErrnoException).code === "ENOENT";
    throw new MeltemiError(missing ? "not_found" : "system", `cannot be read: ${messageOf(error)}`, {
      cause: error,
    });
  }
}
