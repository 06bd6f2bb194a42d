import type { Authority } from "../../ca/authority.js";
import type { KeySource } from "../../ca/key-source.js";
import type { NodeAuthenticator } from "../../ca/ports.js";
import type { Source, SourceBatch } from "../../domain/source-event.js";
import type { Mesh } from "../../model/mesh.js";

/** What a control plane stands on: one machine with a directory of YAML (machine.ts), or a cluster (cluster.ts). */
export interface Ground {
  readonly source: Source;
  readonly keys: KeySource;
  /** Pods are network namespaces of this machine, which they name. */
  readonly standalone: boolean;
  callers(mesh: Mesh): NodeAuthenticator;
  /** Before a batch is taken: who is new in it can call from then on. */
  expect(batch: SourceBatch): void;
  /** After a batch was taken. */
  changed(batch: SourceBatch, mesh: Mesh): void;
  /** What the source has not told yet, for a person. */
  waiting(): readonly string[];
  /** What goes on beside, until the signal. */
  run(authority: Authority, signal: AbortSignal): Promise<void>;
}
