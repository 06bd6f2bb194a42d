import type { Fields } from "./fields.js";

const units = { h: 3_600_000, m: 60_000, s: 1_000, ms: 1 } as const;

/**
 * A duration as Gateway API writes it (GEP-2257): at most four parts of one to five digits, each with its
 * unit, such as `1h30m` or `500ms`. Milliseconds; undefined where absent or wrong, which is reported.
 */
export function readDuration(fields: Fields, key: string): number | undefined {
  const text = fields.string(key);
  if (text === undefined) return undefined;
  if (/^([0-9]{1,5}(h|m|s|ms)){1,4}$/.test(text)) {
    let total = 0;
    for (const [, digits, unit] of text.matchAll(/(\d+)(ms|h|m|s)/g))
      total += Number(digits) * units[unit as keyof typeof units];
    return total;
  }
  fields.report.error(fields.at(key), {
    value: text,
    message: "is not a duration",
    hint: "numbers with h, m, s or ms, such as 10s or 1m30s",
  });
  return undefined;
}

const goUnits = { h: 3_600_000, m: 60_000, s: 1_000, ms: 1, us: 1e-3, µs: 1e-3, ns: 1e-6 } as const;

/**
 * A duration as Istio's objects write it (Go's form, such as `1.5s` or `1h30m`). Milliseconds, rounded up: a part of
 * one is not "none". Undefined where absent or wrong, which is reported.
 */
export function readIstioDuration(fields: Fields, key: string): number | undefined {
  const text = fields.string(key);
  if (text === undefined) return undefined;
  if (/^(\d+(\.\d+)?(h|ms|m|s|us|µs|ns))+$/.test(text)) {
    let total = 0;
    for (const [, number, unit] of text.matchAll(/(\d+(?:\.\d+)?)(h|ms|m|s|us|µs|ns)/g))
      total += Number(number) * goUnits[unit as keyof typeof goUnits];
    if (total <= mostMs) return Math.ceil(total);
  }
  fields.report.error(fields.at(key), {
    value: text,
    message: text === "0" ? "has no unit" : "is not a duration",
    hint: "numbers with h, m, s or ms, such as 10s or 1m30s; at most 24 days",
  });
  return undefined;
}

/** What 32 bits of milliseconds hold with a sign: 24 days. */
const mostMs = 0x7fffffff;
