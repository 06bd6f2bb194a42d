/** What the benchmark's processes tell each other over Node's IPC. */
import type { WorldSize } from "./world.js";

export type ServerCommand =
  | {
      readonly type: "start";
      readonly size: WorldSize;
      readonly directory: string | undefined;
      readonly tls: TlsFiles;
    }
  | { readonly type: "change"; readonly perSecond: number; readonly seconds: number }
  | { readonly type: "memory" };

export type ServerReport =
  | { readonly type: "ready"; readonly port: number; readonly readyMs: number; readonly rssMb: number }
  | {
      readonly type: "changed";
      readonly expected: number;
      readonly changes: number;
      readonly compileMs: Percentiles;
    }
  | { readonly type: "memory"; readonly rssMb: number; readonly peakMb: number; readonly heapMb: number };

export type NodesCommand =
  | { readonly type: "start"; readonly size: WorldSize; readonly port: number; readonly tls: TlsFiles }
  | { readonly type: "results" };

export type NodesReport =
  | { readonly type: "settled"; readonly settledMs: number; readonly resources: number }
  | {
      readonly type: "results";
      /** Changes that arrived at a node that asked. */
      readonly arrived: number;
      /** Messages since `settled` that brought a node nothing it asked for. */
      readonly unasked: number;
      readonly latencyMs: Percentiles;
    };

export interface TlsFiles {
  readonly key: string;
  readonly certificate: string;
}

export interface Percentiles {
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly max: number;
}

export function percentiles(values: readonly number[]): Percentiles {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (fraction: number): number =>
    sorted[Math.min(sorted.length - 1, Math.floor(fraction * sorted.length))] ?? Number.NaN;
  return { p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1) };
}

/** A clock that both processes share, milliseconds with fractions. */
export function sharedNowMs(): number {
  return performance.timeOrigin + performance.now();
}
