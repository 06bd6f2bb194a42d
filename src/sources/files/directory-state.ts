import { isDeepStrictEqual } from "node:util";
import type { ObjectKey } from "../../domain/ids.js";
import type { MeshObject } from "../../domain/objects.js";
import type { Problem } from "../../domain/problem.js";
import type { SourceBatch, SourceEvent } from "../../domain/source-event.js";
import { comparePaths } from "./directory.js";
import type { FileState, Held } from "./file-state.js";

function duplicate(held: Held, inForce: Held): Problem {
  const { apiVersion, namespace, name } = held.object.meta;
  // Said twice in the same words, it does not matter which is in force.
  const same = isDeepStrictEqual(held.object, inForce.object);
  return {
    severity: same ? "warning" : "error",
    object: { apiVersion, kind: held.object.kind, namespace, name },
    location: held.place.locationOf(""),
    path: "",
    message: same
      ? `is also in ${inForce.place.locationOf("")}, the same`
      : `is also in ${inForce.place.locationOf("")}, which is in force`,
    hint: "remove one of them",
  };
}

/** All files together: which of their objects are in force. The first file in path order wins. */
export function assemble(files: ReadonlyMap<string, FileState>): {
  objects: Map<ObjectKey, Held>;
  problems: Problem[];
} {
  const ordered = [...files].sort(([a], [b]) => comparePaths(a, b)).map(([, state]) => state);
  const objects = new Map<ObjectKey, Held>();
  const problems: Problem[] = [];
  for (const state of ordered) {
    problems.push(...state.problems);
    for (const [key, held] of state.good) {
      const inForce = objects.get(key);
      if (inForce) problems.push(duplicate(held, inForce));
      else objects.set(key, held);
    }
    for (const { key, held } of state.repeated) problems.push(duplicate(held, objects.get(key) ?? held));
  }
  // A last good form is in force only where no file has a good one: the object may have moved.
  for (const state of ordered) {
    for (const [key, held] of state.lastGood) if (!objects.has(key)) objects.set(key, held);
  }
  return { objects, problems };
}

/** The objects that were told to the consumer, and the difference to those of the files now. */
export class DirectoryState {
  readonly #files = new Map<string, FileState>();
  #told = new Map<ObjectKey, MeshObject>();
  #toldProblems: readonly Problem[] | undefined;

  file(path: string): FileState | undefined {
    return this.#files.get(path);
  }

  paths(): readonly string[] {
    return [...this.#files.keys()];
  }

  set(path: string, state: FileState): void {
    this.#files.set(path, state);
  }

  remove(path: string): void {
    this.#files.delete(path);
  }

  /** What changed since the last call; undefined where nothing did. The first call always answers. */
  takeBatch(directoryProblems: readonly Problem[] = []): SourceBatch | undefined {
    const { objects, problems: fileProblems } = assemble(this.#files);
    const problems = [...directoryProblems, ...fileProblems];
    const events: SourceEvent[] = [];
    for (const [key, object] of this.#told) {
      if (objects.has(key)) continue;
      events.push({
        type: "remove",
        kind: object.kind,
        namespace: object.meta.namespace,
        name: object.meta.name,
      });
    }
    const told = new Map<ObjectKey, MeshObject>();
    for (const [key, { object }] of objects) {
      const before = this.#told.get(key);
      const same = before !== undefined && (before === object || isDeepStrictEqual(before, object));
      told.set(key, same ? before : object);
      if (!same) events.push({ type: "apply", object });
    }
    this.#told = told;
    if (events.length === 0 && this.#toldProblems && isDeepStrictEqual(this.#toldProblems, problems))
      return undefined;
    this.#toldProblems = problems;
    return { events, problems };
  }
}
