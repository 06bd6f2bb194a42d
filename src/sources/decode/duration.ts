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
