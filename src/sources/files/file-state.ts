import { objectKey, type ObjectKey } from "../../domain/ids.js";
import type { MeshObject } from "../../domain/objects.js";
import type { Problem } from "../../domain/problem.js";
import { decodeText, type DecodedText, type LocatedObject } from "../decode/text.js";

/** An object that a file holds now, and where. */
export interface Held {
  readonly object: MeshObject;
  readonly place: LocatedObject;
}

/** One version of one file: what it says, and what stays in force although it no longer says it well. */
export interface FileState {
  /** By key, the first of each; in the file's order. */
  readonly good: ReadonlyMap<ObjectKey, Held>;
  /** Objects that a later document of the same file repeats. */
  readonly repeated: readonly { readonly key: ObjectKey; readonly held: Held }[];
  /** Last good forms of objects that the file now refuses. */
  readonly lastGood: ReadonlyMap<ObjectKey, Held>;
  readonly problems: readonly Problem[];
  readonly decoded: DecodedText | undefined;
}

export function keyOf(object: MeshObject): ObjectKey {
  return objectKey(object.kind, object.meta.namespace, object.meta.name);
}

/** Everything of the former version that the new one does not have. */
function missingFrom(good: FileState["good"], previous: FileState): Map<ObjectKey, Held> {
  const missing = new Map<ObjectKey, Held>();
  for (const [key, held] of [...previous.lastGood, ...previous.good])
    if (!good.has(key)) missing.set(key, held);
  return missing;
}

/**
 * The state after a new text. A document that is refused keeps its object's last good form; one that
 * cannot even be named might be any, so then all that the file had stays.
 */
export function readFileState(path: string, text: string, previous: FileState | undefined): FileState {
  const decoded = decodeText(text, path, { origin: "files" }, previous?.decoded);
  const good = new Map<ObjectKey, Held>();
  const repeated: { key: ObjectKey; held: Held }[] = [];
  const refused = new Set<ObjectKey>();
  const problems: Problem[] = [];
  let unnamed = false;
  for (const place of decoded.objects) {
    const { decoded: object } = place;
    problems.push(...object.problems);
    switch (object.outcome) {
      case "understood": {
        const key = keyOf(object.object);
        const held = { object: object.object, place };
        if (good.has(key)) repeated.push({ key, held });
        else good.set(key, held);
        break;
      }
      case "refused":
        if (object.key) refused.add(objectKey(object.key.kind, object.key.namespace, object.key.name));
        else unnamed = true;
        break;
      case "unsupported":
    }
  }
  const lastGood = new Map<ObjectKey, Held>();
  if (previous) {
    for (const [key, held] of missingFrom(good, previous))
      if (unnamed || refused.has(key)) lastGood.set(key, held);
  }
  return { good, repeated, lastGood, problems, decoded };
}

/** The state of a file that is there and cannot be read: all that it had stays. */
export function unreadableFileState(
  path: string,
  finding: { readonly message: string; readonly hint?: string },
  previous: FileState | undefined,
): FileState {
  const problem: Problem = { severity: "error", location: path, path: "", ...finding };
  const lastGood = previous ? missingFrom(new Map(), previous) : new Map<ObjectKey, Held>();
  return { good: new Map(), repeated: [], lastGood, problems: [problem], decoded: previous?.decoded };
}

/** Whether the new version may be half of one: it refuses something, lost objects, or stops within a line. */
export function isDoubtful(text: string, state: FileState, previous: FileState | undefined): boolean {
  if (text !== "" && !text.endsWith("\n")) return true;
  if (state.problems.some(({ severity }) => severity === "error")) return true;
  if (!previous) return text === "";
  return [...previous.good.keys()].some((key) => !state.good.has(key));
}
