import type { StringMatch } from "./objects.js";

/**
 * Reads a policy's string as Istio documents it: `*` (present), `abc*` (prefix), `*abc` (suffix),
 * else exact. Undefined where a star stands anywhere else, or nothing is written: such a value could be read in two ways.
 */
export function parseStringMatch(text: string): StringMatch | undefined {
  if (text === "") return undefined;
  if (text === "*") return { type: "presence" };
  const inner = text.slice(1, -1);
  if (inner.includes("*") || (text.length > 1 && text.startsWith("*") && text.endsWith("*")))
    return undefined;
  if (text.startsWith("*")) return { type: "suffix", value: text.slice(1) };
  if (text.endsWith("*")) return { type: "prefix", value: text.slice(0, -1) };
  return { type: "exact", value: text };
}

/** The match as a policy writes it: what `parseStringMatch` reads. */
export function stringMatchText(match: StringMatch): string {
  switch (match.type) {
    case "exact":
      return match.value;
    case "prefix":
      return `${match.value}*`;
    case "suffix":
      return `*${match.value}`;
    case "presence":
      return "*";
  }
}

/** Whether a value satisfies the match. */
export function stringMatches(match: StringMatch, value: string): boolean {
  switch (match.type) {
    case "exact":
      return value === match.value;
    case "prefix":
      return value.startsWith(match.value);
    case "suffix":
      return value.endsWith(match.value);
    case "presence":
      return value !== "";
  }
}
