/** Where the CA's keys come from: made here and rotated here (KeyStore), or given (GivenKeys). */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { z } from "zod";
import { MeltemiError } from "../domain/error.js";
import { type KeyStore, readJson, readKeyFiles } from "./key-store.js";
import type { KeyFiles, KeyMaterial } from "./key-material.js";
import { writePrivateFile, type ModeRepair } from "./private-files.js";
import type { RotationState } from "./rotation.js";

export interface KeySource {
  /** Whether new keys can be made: false for keys given from outside. */
  readonly writable: boolean;
  /** Where keys that cannot be made here are replaced, for a person. */
  readonly replaceHint?: string;
  readonly ledgerPath: string;
  readonly repairs: readonly ModeRepair[];
  openRotation(trustDomain: string, nowMs: number): RotationState;
  readGeneration(generation: number, nowMs: number): KeyMaterial;
  addGeneration(files: KeyFiles): number;
  commit(state: RotationState): void;
  refused(): Set<string>;
  saveRefused(identities: ReadonlySet<string>): void;
}

const seenShape = z.object({ fingerprint: z.string(), version: z.int().positive(), sinceMs: z.number() });

/**
 * Keys in a directory that somebody else keeps (Istio's `cacerts` layout). Read at start; the
 * version grows when they differ from the last start's, so that nodes renew.
 */
export class GivenKeys implements KeySource {
  readonly writable = false;
  readonly repairs: ModeRepair[] = [];
  readonly #directory: string;
  readonly #store: KeyStore;

  /** @param directory the given files @param store where the CA keeps its own notes */
  constructor(directory: string, store: KeyStore) {
    this.#directory = directory;
    this.#store = store;
  }

  get ledgerPath(): string {
    return this.#store.ledgerPath;
  }

  openRotation(_trustDomain: string, nowMs: number): RotationState {
    const { roots, issuing } = this.readGeneration(1, nowMs);
    const fingerprint = createHash("sha256")
      .update([...roots, issuing].map((one) => one.fingerprint256).join())
      .digest("hex");
    const path = join(this.#store.directory, "given.json");
    const seen = readJson(path, seenShape);
    const state =
      seen?.fingerprint === fingerprint
        ? seen
        : { fingerprint, version: (seen?.version ?? 0) + 1, sinceMs: nowMs };
    if (state !== seen) writePrivateFile(path, `${JSON.stringify(state)}\n`);
    return { phase: "stable", version: state.version, issuer: 1, sinceMs: state.sinceMs };
  }

  readGeneration(_generation: number, nowMs: number): KeyMaterial {
    return readKeyFiles(this.#directory, nowMs, this.repairs);
  }

  addGeneration(): number {
    throw new MeltemiError("unsupported", "keys given from outside are not replaced here");
  }

  commit(): void {
    throw new MeltemiError("unsupported", "keys given from outside are not replaced here");
  }

  refused(): Set<string> {
    return this.#store.refused();
  }

  saveRefused(identities: ReadonlySet<string>): void {
    this.#store.saveRefused(identities);
  }
}
