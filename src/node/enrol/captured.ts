import { MeltemiError } from "../../domain/error.js";
import { modeNames, type ModeName } from "../capture/mode.js";
import { isOriginals, noOriginals } from "../capture/originals.js";
import type { CaptureRecord } from "../capture/pod-capture.js";
import type { GuardKind } from "../capture/support.js";

/**
 * Which namespaces carry our capture, on disk: an agent that was killed leaves them captured, and the
 * next one must find those whose pod has left the mesh meanwhile. Written before the rules are set.
 * It lies in the run directory: namespaces and inode numbers do not outlive a reboot either.
 */
export interface CapturedNamespace extends CaptureRecord {
  /** `NAMESPACE/NAME` of the pod. */
  readonly key: string;
  /** The name or path by which the namespace was opened. */
  readonly netns: string;
  readonly inode: number;
}

const guards: ReadonlySet<unknown> = new Set(["bpf", "nftables", "none"] satisfies GuardKind[]);
const modes: ReadonlySet<unknown> = new Set(modeNames);

/** Reads an entry. One that names no mode is of an agent that had nftables only, and no guard. */
function readEntry(value: unknown): CapturedNamespace | undefined {
  const entry = (value ?? {}) as Partial<Record<keyof CapturedNamespace, unknown>>;
  const { key, netns, inode, mode = "nftables", guard = "none", originals = noOriginals } = entry;
  if (typeof key !== "string" || typeof netns !== "string" || typeof inode !== "number") return undefined;
  if (!modes.has(mode) || !guards.has(guard) || !isOriginals(originals)) return undefined;
  return { key, netns, inode, mode: mode as ModeName, guard: guard as GuardKind, originals };
}

function parse(text: string): readonly CapturedNamespace[] {
  let value: { version?: unknown; captured?: unknown } | null;
  try {
    value = JSON.parse(text) as typeof value;
  } catch {
    value = null;
  }
  const entries =
    value?.version === 1 && Array.isArray(value.captured) ? value.captured.map(readEntry) : [undefined];
  if (entries.every((entry) => entry !== undefined)) return entries;
  throw new MeltemiError("bad_input", "the record of captured namespaces cannot be read", {
    hint: 'it lies in the run directory as captured.json; remove capture in the pods it names (docs/capture.md, "Removing it by hand"), then the file',
  });
}

/** Files as this record needs them. */
export interface RecordFile {
  /** Undefined where there is none. */
  read(): Promise<string | undefined>;
  /** Replaces the content atomically, readable by the owner only. */
  write(text: string): Promise<void>;
  remove(): Promise<void>;
}

export class CapturedRecord {
  readonly #entries = new Map<string, CapturedNamespace>();
  #writing: Promise<void> = Promise.resolve();
  /** A write that has not begun: it will say all that is known by then. */
  #queued: Promise<void> | undefined;
  /** Whether the file says what is here. */
  #saved = true;

  constructor(private readonly file: RecordFile) {}

  /** Reads what an earlier agent left. A file that cannot be read as one is an error: guessing would leave traces. */
  async load(): Promise<void> {
    const text = await this.file.read();
    if (text === undefined) return;
    for (const entry of parse(text)) this.#entries.set(entry.key, entry);
  }

  get(key: string): CapturedNamespace | undefined {
    return this.#entries.get(key);
  }

  get all(): readonly CapturedNamespace[] {
    return [...this.#entries.values()];
  }

  async set(entry: CapturedNamespace): Promise<void> {
    const present = this.#entries.get(entry.key);
    if (this.#saved && present !== undefined && JSON.stringify(present) === JSON.stringify(entry)) return;
    this.#entries.set(entry.key, entry);
    await this.#save();
  }

  async delete(key: string): Promise<void> {
    if (this.#entries.delete(key)) await this.#save();
  }

  /** Changes that come together are one write: of hundreds of pods each would write them all. */
  #save(): Promise<void> {
    this.#queued ??= this.#writing
      .catch(() => undefined)
      .then(() => {
        this.#queued = undefined;
        return (this.#writing = this.#write());
      });
    return this.#queued;
  }

  /** Without entries there is no file: nothing is left behind. */
  async #write(): Promise<void> {
    this.#saved = false;
    if (this.#entries.size === 0) await this.file.remove();
    else await this.file.write(`${JSON.stringify({ version: 1, captured: this.all })}\n`);
    this.#saved = true;
  }
}
