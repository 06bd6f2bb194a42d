import type { WorkloadInfo } from "./messages.js";

/** A pod as the data planes are to serve it. The descriptor belongs to the enrolment; each message carries a copy. */
export interface ServedPod {
  readonly uid: string;
  readonly info: WorkloadInfo;
  readonly netnsFd: number;
}

/** An entry of the table; a new one under the same uid is another object, and is told anew. */
export interface TableEntry {
  readonly pod: ServedPod;
}

/** What the data planes are to serve now. Streams compare it with what they have told (level, not edge). */
export class WorkloadTable {
  readonly #entries = new Map<string, TableEntry>();
  readonly #listeners = new Set<() => void>();

  get entries(): ReadonlyMap<string, TableEntry> {
    return this.#entries;
  }

  put(pod: ServedPod): TableEntry {
    const entry = { pod };
    this.#entries.set(pod.uid, entry);
    this.changed();
    return entry;
  }

  delete(uid: string): void {
    if (this.#entries.delete(uid)) this.changed();
  }

  /** Calls `listener` at every change, of the table or of what a stream has told. */
  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  changed(): void {
    for (const listener of [...this.#listeners]) listener();
  }
}
