import { z } from "zod/mini";

/**
 * Which namespaces carry our capture, on disk: an agent that was killed leaves them captured, and the
 * next one must find those whose pod has left the mesh meanwhile. Written before the rules are set.
 * It lies in the run directory: namespaces and inode numbers do not outlive a reboot either.
 */
export interface CapturedNamespace {
  /** `NAMESPACE/NAME` of the pod. */
  readonly key: string;
  /** The name or path by which the namespace was opened. */
  readonly netns: string;
  readonly inode: number;
}

const fileShape = z.object({
  version: z.literal(1),
  captured: z.array(z.object({ key: z.string(), netns: z.string(), inode: z.number() })),
});

/** Files as this record needs them. */
export interface RecordFile {
  /** Undefined where there is none. */
  read(): Promise<string | undefined>;
  /** Replaces the content atomically, readable by the owner only. */
  write(text: string): Promise<void>;
}

export class CapturedRecord {
  readonly #entries = new Map<string, CapturedNamespace>();
  #writing: Promise<void> = Promise.resolve();

  constructor(private readonly file: RecordFile) {}

  /** Reads what an earlier agent left. A file that cannot be read as one is an error: guessing would leave traces. */
  async load(): Promise<void> {
    const text = await this.file.read();
    if (text === undefined) return;
    for (const entry of fileShape.parse(JSON.parse(text)).captured) this.#entries.set(entry.key, entry);
  }

  get(key: string): CapturedNamespace | undefined {
    return this.#entries.get(key);
  }

  get all(): readonly CapturedNamespace[] {
    return [...this.#entries.values()];
  }

  async set(entry: CapturedNamespace): Promise<void> {
    const present = this.#entries.get(entry.key);
    if (present?.inode === entry.inode && present.netns === entry.netns) return;
    this.#entries.set(entry.key, entry);
    await this.#save();
  }

  async delete(key: string): Promise<void> {
    if (this.#entries.delete(key)) await this.#save();
  }

  #save(): Promise<void> {
    this.#writing = this.#writing
      .catch(() => undefined)
      .then(() => this.file.write(`${JSON.stringify({ version: 1, captured: this.all })}\n`));
    return this.#writing;
  }
}
