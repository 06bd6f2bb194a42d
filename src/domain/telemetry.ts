/** Telemetry objects (telemetry.istio.io), as far as waypoints follow them. What is undefined is left to broader objects. */
import type { Meta, TargetRef } from "./objects.js";

/** Statuses of responses, both ends included. */
export interface StatusRange {
  readonly from: number;
  readonly to: number;
}

export interface AccessLogging {
  readonly disabled: boolean;
  /** Only requests whose status is in one of these; undefined: all. */
  readonly statuses: readonly StatusRange[] | undefined;
}

export interface TelemetryObject {
  readonly kind: "Telemetry";
  readonly meta: Meta;
  /** Whether it is for some workloads only: waypoints have no labels that it could mean. */
  readonly selects: boolean;
  readonly targetRefs: readonly TargetRef[];
  readonly accessLogging: AccessLogging | undefined;
}

/** Statuses that a response can have. */
export const allStatuses: StatusRange = { from: 0, to: 999 };

const bounds: Readonly<Record<string, (status: number) => readonly StatusRange[]>> = {
  "==": (status) => [{ from: status, to: status }],
  "!=": (status) => [
    { from: 0, to: status - 1 },
    { from: status + 1, to: 999 },
  ],
  ">=": (status) => [{ from: status, to: 999 }],
  ">": (status) => [{ from: status + 1, to: 999 }],
  "<=": (status) => [{ from: 0, to: status }],
  "<": (status) => [{ from: 0, to: status - 1 }],
};

const comparison = /^response\.code\s*(==|!=|>=|>|<=|<)\s*(\d{1,3})$/;

function overlap(some: readonly StatusRange[], others: readonly StatusRange[]): StatusRange[] {
  return some
    .flatMap((a) => others.map((b) => ({ from: Math.max(a.from, b.from), to: Math.min(a.to, b.to) })))
    .filter(({ from, to }) => from <= to);
}

/**
 * A filter's expression (CEL), as far as it is comparisons of `response.code` joined by `&&` and `||`: the statuses
 * for which it holds, in order and apart. Undefined for any other expression.
 */
export function statusesOf(expression: string): readonly StatusRange[] | undefined {
  const ranges: StatusRange[] = [];
  for (const alternative of expression.split("||")) {
    let all: readonly StatusRange[] = [allStatuses];
    for (const term of alternative.split("&&")) {
      const [, operator = "", number = ""] = comparison.exec(term.trim()) ?? [];
      const bound = bounds[operator];
      if (!bound) return undefined;
      all = overlap(all, bound(Number(number)));
    }
    ranges.push(...all);
  }
  ranges.sort((a, b) => a.from - b.from);
  const merged: StatusRange[] = [];
  for (const range of ranges) {
    const last = merged.at(-1);
    if (last && range.from <= last.to + 1)
      merged[merged.length - 1] = { from: last.from, to: Math.max(last.to, range.to) };
    else merged.push(range);
  }
  return merged;
}
