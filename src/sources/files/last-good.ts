import { createHash } from "node:crypto";
import { join, resolve } from "node:path";
import type { Files } from "../../platform/files.js";
import { readFileState, type FileState } from "./file-state.js";

/**
 * The last good form of every file, kept over a restart: without it a policy whose file is broken at
 * the wrong moment would not be in force after the next start, and what it forbids would be let
 * through. Each file has one of its own here, named by the hash of its path.
 */
export class LastGoodFiles {
  /** Hashes of what is on disk, so that an unchanged file is not written again. */
  readonly #kept = new Map<string, string>();

  constructor(
    /** The directory whose files these are: another directory's file of the same name is another file. */
    private readonly root: string,
    private readonly directory: string,
    private readonly files: Files,
  ) {}

  /** The kept form of a file; undefined where none was kept, or it cannot be read. */
  async recall(path: string): Promise<FileState | undefined> {
    const bytes = await this.files.readIfPresent(this.#place(path));
    if (!bytes) return undefined;
    const text = bytes.toString("utf8");
    this.#kept.set(path, hashOf(text));
    return readFileState(path, text, undefined);
  }

  /** Keeps what of a file is in force, good now or before. @throws MeltemiError `system` */
  async keep(path: string, state: FileState): Promise<void> {
    const text = goodText(state);
    const hash = hashOf(text);
    if (this.#kept.get(path) === hash) return;
    await this.files.makeDirectory(this.directory, 0o700);
    await this.files.writeAtomic(this.#place(path), text);
    this.#kept.set(path, hash);
  }

  /** Forgets a file that was removed. @throws MeltemiError `system` */
  async forget(path: string): Promise<void> {
    await this.files.remove(this.#place(path));
    this.#kept.delete(path);
  }

  /** Forgets every file but these. @throws MeltemiError `system` */
  async forgetOthers(paths: readonly string[]): Promise<void> {
    const known = new Set(paths.map((path) => this.#name(path)));
    for (const { name } of await this.files.list(this.directory)) {
      if (!known.has(name)) await this.files.remove(join(this.directory, name));
    }
  }

  #place(path: string): string {
    return join(this.directory, this.#name(path));
  }

  #name(path: string): string {
    return `${hashOf(`${resolve(this.root)}\0${path}`)}.yaml`;
  }
}

function hashOf(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}

/** The documents of a file that hold its good objects and its last good ones, each once. */
function goodText(state: FileState): string {
  const parts = new Set([...state.good.values(), ...state.lastGood.values()].map(({ place }) => place.text));
  return [...parts]
    .map((part) => (part.endsWith("\n") ? part : `${part}\n`))
    .map((part, index) => (index === 0 || part.startsWith("---") ? part : `---\n${part}`))
    .join("");
}
