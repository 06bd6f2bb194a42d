import { stat } from "node:fs/promises";
import { basename, dirname } from "node:path";
import { checkObjects, type CheckOptions } from "../domain/checks/checks.js";
import { defaultEnrolmentRules } from "../domain/enrolment.js";
import { messageOf } from "../domain/error.js";
import { objectKey } from "../domain/ids.js";
import type { Problem } from "../domain/problem.js";
import type { Decoded } from "../sources/decode/decode.js";
import { listConfiguration, readConfiguration, type FileStamp } from "../sources/files/directory.js";
import { assemble } from "../sources/files/directory-state.js";
import {
  readFileState,
  unreadableFileState,
  type FileState,
  type Held,
} from "../sources/files/file-state.js";

type Outcome = Decoded["outcome"];

export interface KindCount extends Readonly<Record<Outcome, number>> {
  /** `Pod`, or `(not an object)` for documents that are no Kubernetes objects. */
  readonly kind: string;
}

/** What `analyze` found. `objects` is the sum of the three outcomes: nothing is dropped. */
export interface Analysis extends Readonly<Record<Outcome, number>> {
  readonly directory: string;
  readonly files: number;
  /** YAML documents with content, the items of Lists counted one by one. */
  readonly objects: number;
  readonly kinds: readonly KindCount[];
  readonly problems: readonly Problem[];
}

export type AnalyzeOptions = Partial<CheckOptions>;

export const defaultCheckOptions: CheckOptions = {
  rootNamespaces: ["istio-system", "meltemi-system"],
  trustDomain: "cluster.local",
  enrolment: defaultEnrolmentRules,
  standalone: false,
};

/** A directory's files, or the one file that was named. */
async function findFiles(
  path: string,
): Promise<{ readonly root: string; readonly stamps: readonly FileStamp[] }> {
  const found = await stat(path).catch(() => undefined);
  if (!found?.isFile()) return { root: path, stamps: await listConfiguration(path) };
  const stamp = { path: basename(path), inode: found.ino, size: found.size, changedAtMs: found.mtimeMs };
  return { root: dirname(path), stamps: [stamp] };
}

async function readState(root: string, stamp: FileStamp): Promise<FileState> {
  try {
    return readFileState(stamp.path, await readConfiguration(root, stamp), undefined);
  } catch (error) {
    return unreadableFileState(stamp.path, { message: messageOf(error) }, undefined);
  }
}

function countKinds(outcomes: readonly Decoded[]): KindCount[] {
  const counts = new Map<string, Record<Outcome, number>>();
  for (const { ref, outcome } of outcomes) {
    const kind = ref?.kind || "(not an object)";
    const count = counts.get(kind) ?? { understood: 0, unsupported: 0, refused: 0 };
    count[outcome]++;
    counts.set(kind, count);
  }
  return [...counts].map(([kind, count]) => ({ kind, ...count })).sort((a, b) => (a.kind < b.kind ? -1 : 1));
}

/** Gives the problems between objects the line of the field that they name. */
function locate(problem: Problem, objects: ReadonlyMap<string, Held>): Problem {
  const ref = problem.object;
  const held = ref && objects.get(objectKey(ref.kind, ref.namespace, ref.name));
  return held ? { ...problem, location: held.place.locationOf(problem.path) } : problem;
}

/**
 * Reads every YAML and JSON file below a directory (or one file) as `standalone` would, and says what
 * would become of each object, without running anything.
 * @throws MeltemiError `not_found` or `system` where the directory cannot be listed
 */
export async function analyzeDirectory(path: string, options: AnalyzeOptions = {}): Promise<Analysis> {
  const { root, stamps } = await findFiles(path);
  const states = new Map<string, FileState>();
  for (const stamp of stamps) states.set(stamp.path, await readState(root, stamp));
  const { objects, problems } = assemble(states);
  const outcomes = [...states.values()].flatMap(
    (state) => state.decoded?.objects.map(({ decoded }) => decoded) ?? [],
  );
  const checked = checkObjects(
    [...objects.values()].map(({ object }) => object),
    { ...defaultCheckOptions, ...options },
  );
  const count = (outcome: Outcome): number =>
    outcomes.filter((decoded) => decoded.outcome === outcome).length;
  return {
    directory: path,
    files: stamps.length,
    objects: outcomes.length,
    understood: count("understood"),
    unsupported: count("unsupported"),
    refused: count("refused"),
    kinds: countKinds(outcomes),
    problems: [...problems, ...checked.map((problem) => locate(problem, objects))],
  };
}
