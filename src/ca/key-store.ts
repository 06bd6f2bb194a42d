/**
 * The CA's directory: one directory per generation of keys, and which of them count.
 *
 * ```
 * ca/generations/N/{root-cert,root-key,ca-cert,ca-key,cert-chain}.pem
 * ca/rotation.json    RotationState
 * ca/refused.json     identities that get no certificate
 * ca/issued.jsonl     Ledger
 * ```
 * A generation is written whole before `rotation.json` names it, so that a crash in between leaves
 * the former state and a directory that the next start removes.
 */
import { readdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { MeltemiError, messageOf } from "../domain/error.js";
import { generateRoot } from "./key-generation.js";
import type { KeySource } from "./key-source.js";
import { checkKeyMaterial, keyFileNames, type KeyFiles, type KeyMaterial } from "./key-material.js";
import {
  exists,
  makePrivateDirectory,
  readPrivateFile,
  requirePrivate,
  syncDirectory,
  writePrivateFile,
  type ModeRepair,
} from "./private-files.js";
import { firstState, trustedGenerations, type RotationState } from "./rotation.js";

const base = { version: z.int().positive(), issuer: z.int().positive(), sinceMs: z.number() };
const rotationShape = z.discriminatedUnion("phase", [
  z.object({ phase: z.literal("stable"), ...base }),
  z.object({ phase: z.literal("overlap"), ...base, next: z.int().positive() }),
  z.object({ phase: z.literal("draining"), ...base, previous: z.int().positive(), sameRoot: z.boolean() }),
]);
const refusedShape = z.object({ identities: z.array(z.string()) });

/** Parses a JSON file of ours. Throws `bad_input` naming it: a damaged state is never guessed at. */
export function readJson<T>(path: string, shape: z.ZodType<T>): T | undefined {
  const text = readPrivateFile(path);
  if (text === undefined) return undefined;
  try {
    return shape.parse(JSON.parse(text));
  } catch (error) {
    throw new MeltemiError("bad_input", `${path} is damaged: ${messageOf(error)}`, {
      hint: "restore it from a backup; removing the whole CA directory makes a new root, which no running node trusts until it has asked again",
      cause: error,
    });
  }
}

/** Reads one set of key files; `repairs` takes what was narrowed. */
export function readKeyFiles(directory: string, nowMs: number, repairs: ModeRepair[]): KeyMaterial {
  const note = (repair: ModeRepair | undefined): void => {
    if (repair) repairs.push(repair);
  };
  note(requirePrivate(directory));
  const texts = new Map<string, string>();
  for (const name of keyFileNames) {
    const path = join(directory, name);
    if (name.endsWith("-key.pem")) note(requirePrivate(path));
    const text = readPrivateFile(path);
    if (text !== undefined) texts.set(name, text);
  }
  const need = (name: (typeof keyFileNames)[number]): string => {
    const text = texts.get(name);
    if (text === undefined) {
      throw new MeltemiError("not_found", `${join(directory, name)} is missing`, {
        hint: "the CA needs root-cert.pem, ca-cert.pem, ca-key.pem and, where the issuing certificate is not signed by the root itself, cert-chain.pem",
      });
    }
    return text;
  };
  const files: KeyFiles = {
    "root-cert.pem": need("root-cert.pem"),
    "ca-cert.pem": need("ca-cert.pem"),
    "ca-key.pem": need("ca-key.pem"),
    "cert-chain.pem": texts.get("cert-chain.pem"),
    "root-key.pem": texts.get("root-key.pem"),
  };
  return checkKeyMaterial(files, directory, nowMs);
}

/** One control plane's own keys on disk. Used by one process at a time. */
export class KeyStore implements KeySource {
  readonly writable = true;
  readonly directory: string;
  /** Modes that were too wide and were narrowed when the store was opened. */
  readonly repairs: ModeRepair[] = [];

  constructor(directory: string) {
    this.directory = directory;
    makePrivateDirectory(directory);
    const repair = requirePrivate(directory);
    if (repair) this.repairs.push(repair);
    makePrivateDirectory(this.#generations);
  }

  get #generations(): string {
    return join(this.directory, "generations");
  }

  get ledgerPath(): string {
    return join(this.directory, "issued.jsonl");
  }

  /** The state on disk, or that of a first generation made now. */
  openRotation(trustDomain: string, nowMs: number): RotationState {
    let state = readJson<RotationState>(join(this.directory, "rotation.json"), rotationShape);
    if (state === undefined) {
      const found = readdirSync(this.#generations).filter((name) => /^\d+$/.test(name));
      if (found.length > 0 && exists(this.ledgerPath)) {
        throw new MeltemiError(
          "bad_input",
          `${this.directory}/rotation.json is missing beside generations ${found.join(", ")}`,
          {
            hint: "restore it from a backup",
          },
        );
      }
      state = firstState(this.addGeneration(generateRoot(trustDomain, nowMs)), nowMs);
      this.saveRotation(state);
    }
    this.#removeOthers(state);
    return state;
  }

  saveRotation(state: RotationState): void {
    writePrivateFile(join(this.directory, "rotation.json"), `${JSON.stringify(state, undefined, 2)}\n`);
  }

  /** Removes generations that the state no longer names, with their keys. */
  #removeOthers(state: RotationState): void {
    const kept = new Set(trustedGenerations(state).map(String));
    for (const name of readdirSync(this.#generations)) {
      if (!kept.has(name)) rmSync(join(this.#generations, name), { recursive: true, force: true });
    }
  }

  /** Saves the new state, then forgets the keys it has left behind. */
  commit(state: RotationState): void {
    this.saveRotation(state);
    this.#removeOthers(state);
  }

  /** Writes a generation as a whole and returns its number. */
  addGeneration(files: KeyFiles): number {
    const numbers = readdirSync(this.#generations)
      .filter((name) => /^\d+$/.test(name))
      .map(Number);
    const number = Math.max(0, ...numbers) + 1;
    const temporary = join(this.#generations, `.${number}.tmp`);
    rmSync(temporary, { recursive: true, force: true });
    makePrivateDirectory(temporary);
    for (const name of keyFileNames) {
      const text = files[name];
      if (text !== undefined) writePrivateFile(join(temporary, name), text);
    }
    renameSync(temporary, join(this.#generations, String(number)));
    syncDirectory(this.#generations);
    return number;
  }

  readGeneration(number: number, nowMs: number): KeyMaterial {
    return readKeyFiles(join(this.#generations, String(number)), nowMs, this.repairs);
  }

  refused(): Set<string> {
    return new Set(readJson(join(this.directory, "refused.json"), refusedShape)?.identities ?? []);
  }

  saveRefused(identities: ReadonlySet<string>): void {
    writePrivateFile(
      join(this.directory, "refused.json"),
      `${JSON.stringify({ identities: [...identities].sort() }, undefined, 2)}\n`,
    );
  }
}
