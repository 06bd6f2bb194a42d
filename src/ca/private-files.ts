/** Files that only their owner may read: directories 0700, files 0600, replaced atomically. */
import {
  chmodSync,
  linkSync,
  writeFileSync,
  closeSync,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { randomBytes } from "node:crypto";
import { dirname, join } from "node:path";
import { MeltemiError, messageOf } from "../domain/error.js";

/** A mode or owner that was wider than it must be and was set right. */
export interface ModeRepair {
  readonly path: string;
  readonly was: string;
  readonly now: string;
}

const octal = (mode: number): string => `0${(mode & 0o777).toString(8)}`;

function systemError(path: string, doing: string, error: unknown): MeltemiError {
  return new MeltemiError("system", `${path} cannot be ${doing}: ${messageOf(error)}`, {
    hint: "check that the directory exists and belongs to the user that runs the control plane",
    cause: error,
  });
}

const isMissing = (error: unknown): boolean =>
  error instanceof Error && "code" in error && error.code === "ENOENT";

/** Makes a directory with mode 0700. */
export function makePrivateDirectory(path: string): void {
  try {
    mkdirSync(path, { recursive: true, mode: 0o700 });
  } catch (error) {
    throw systemError(path, "made", error);
  }
}

/**
 * Narrows the mode of a directory or file of ours to its owner. Throws `system` when it belongs to
 * somebody else (neither this user nor root): its owner could read or replace the keys.
 */
export function requirePrivate(path: string): ModeRepair | undefined {
  let info;
  try {
    info = statSync(path);
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw systemError(path, "read", error);
  }
  const uid = process.getuid?.() ?? 0;
  if (info.uid !== uid && info.uid !== 0) {
    throw new MeltemiError("system", `${path} belongs to user ${info.uid}, not to ${uid}`, {
      hint: `chown ${uid} ${path}`,
    });
  }
  const wanted = info.isDirectory() ? 0o700 : 0o600;
  if ((info.mode & 0o077) === 0) return undefined;
  try {
    chmodSync(path, wanted);
  } catch (error) {
    throw systemError(path, `narrowed from mode ${octal(info.mode)} to ${octal(wanted)}`, error);
  }
  return { path, was: octal(info.mode), now: octal(wanted) };
}

/** The text of a file, undefined when there is none. Throws `system` when it cannot be read. */
export function readPrivateFile(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw systemError(path, "read", error);
  }
}

/** Replaces a file as a whole: a reader, and a crash, see the old or the new contents. */
export function writePrivateFile(path: string, text: string, mode = 0o600): void {
  const temporary = join(dirname(path), `.${randomBytes(6).toString("hex")}.tmp`);
  try {
    const fd = openSync(temporary, "wx", mode);
    try {
      writeSync(fd, text);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(temporary, path);
    syncDirectory(dirname(path));
  } catch (error) {
    rmSync(temporary, { force: true });
    throw systemError(path, "written", error);
  }
}

/** Makes a file with these contents where there is none; of several that try, one succeeds and all see its contents. */
export function createPrivateFile(path: string, text: string): void {
  const temporary = join(dirname(path), `.${randomBytes(6).toString("hex")}.tmp`);
  try {
    writeFileSync(temporary, text, { flag: "wx", mode: 0o600 });
    linkSync(temporary, path);
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "EEXIST"))
      throw systemError(path, "written", error);
  } finally {
    rmSync(temporary, { force: true });
  }
}

/** Makes a rename in a directory durable. */
export function syncDirectory(path: string): void {
  const fd = openSync(path, "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** True when the path is there, whatever it is. */
export function exists(path: string): boolean {
  try {
    lstatSync(path);
    return true;
  } catch (error) {
    if (isMissing(error)) return false;
    throw systemError(path, "read", error);
  }
}
