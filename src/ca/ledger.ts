/**
 * Which certificate each node holds for each identity: the last one issued. A rotation waits for
 * it, and it must be right after a crash, so each issue is appended to a file before it is answered.
 */
import { appendFileSync, closeSync, openSync } from "node:fs";
import { MeltemiError, messageOf } from "../domain/error.js";
import { readPrivateFile, writePrivateFile } from "./private-files.js";

export interface LedgerEntry {
  readonly node: string;
  readonly identity: string;
  readonly serial: string;
  /** Version of the trust bundle that was sent along. */
  readonly version: number;
  readonly notAfterMs: number;
}

const compactAfterLines = 20_000;

const keyOf = (entry: Pick<LedgerEntry, "node" | "identity">): string => `${entry.node}\n${entry.identity}`;

function parseLine(line: string): LedgerEntry | undefined {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    return undefined; // the last line of a process that was killed while writing it: never answered
  }
  if (!Array.isArray(value) || value.length !== 5) return undefined;
  const [node, identity, serial, version, notAfterMs] = value as unknown[];
  if (typeof node !== "string" || typeof identity !== "string" || typeof serial !== "string")
    return undefined;
  if (typeof version !== "number" || typeof notAfterMs !== "number") return undefined;
  return { node, identity, serial, version, notAfterMs };
}

const formatLine = (entry: LedgerEntry): string =>
  `${JSON.stringify([entry.node, entry.identity, entry.serial, entry.version, entry.notAfterMs])}\n`;

export class Ledger {
  readonly #path: string;
  readonly #entries = new Map<string, LedgerEntry>();
  #fd: number;
  #lines = 0;

  /** Reads the file, forgets what has expired, and rewrites it. */
  constructor(path: string, nowMs: number) {
    this.#path = path;
    for (const line of (readPrivateFile(path) ?? "").split("\n")) {
      const entry = parseLine(line);
      if (entry) this.#entries.set(keyOf(entry), entry);
    }
    this.#fd = this.#compact(nowMs);
  }

  #compact(nowMs: number): number {
    for (const [key, entry] of this.#entries) if (entry.notAfterMs <= nowMs) this.#entries.delete(key);
    writePrivateFile(this.#path, [...this.#entries.values()].map(formatLine).join(""));
    this.#lines = this.#entries.size;
    return openSync(this.#path, "a", 0o600);
  }

  /** Notes an issue; after this returns it survives the process. Throws `system` when it cannot be written: then do not answer. */
  record(entry: LedgerEntry, nowMs: number): void {
    try {
      appendFileSync(this.#fd, formatLine(entry));
    } catch (error) {
      throw new MeltemiError("system", `${this.#path} cannot be written: ${messageOf(error)}`, {
        cause: error,
      });
    }
    this.#entries.set(keyOf(entry), entry);
    this.#lines += 1;
    if (this.#lines > compactAfterLines + 2 * this.#entries.size) {
      closeSync(this.#fd);
      this.#fd = this.#compact(nowMs);
    }
  }

  /** Certificates that have not expired. */
  live(nowMs: number): LedgerEntry[] {
    return [...this.#entries.values()].filter((entry) => entry.notAfterMs > nowMs);
  }

  get size(): number {
    return this.#entries.size;
  }

  close(): void {
    closeSync(this.#fd);
  }
}
