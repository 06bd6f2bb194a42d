import type { MeshKind, MeshObject } from "./objects.js";
import type { Problem } from "./problem.js";

/** What a source (files, cluster) tells its consumers. Objects are complete; an `apply` replaces. */
export type SourceEvent =
  | { readonly type: "apply"; readonly object: MeshObject }
  | { readonly type: "remove"; readonly kind: MeshKind; readonly namespace: string; readonly name: string };

/** One consistent change: applied as a whole. */
export interface SourceBatch {
  readonly events: readonly SourceEvent[];
  /** All problems that stand now, not only those of this batch. */
  readonly problems: readonly Problem[];
}

/** A source of objects. `run` resolves when the signal aborts; the first batch is the complete first state. */
export interface Source {
  run(onBatch: (batch: SourceBatch) => void, signal: AbortSignal): Promise<void>;
}
