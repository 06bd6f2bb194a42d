import { marks } from "./ruleset.js";

/**
 * Policy routing of capture: what carries the mark of an answered connection is delivered through lo,
 * where the data plane's transparent socket waits for it, instead of leaving for the true client.
 */
const table = 100;
const preference = 32764;

const rule = `fwmark ${marks.answered}/${marks.mask} pref ${preference} lookup ${table}`;
const route = `local 0.0.0.0/0 dev lo table ${table}`;

/** Input of `ip -batch -`: prints what `missingRouting` reads. */
export const showRouting = `rule show pref ${preference}\nroute show table ${table}\n`;

export interface Missing {
  readonly rule: boolean;
  readonly route: boolean;
}

/** Reads the output of `showRouting`. */
export function missingRouting(text: string): Missing {
  const lines = text.split("\n").map((line) => line.trim().replace(/\s+/g, " "));
  return {
    rule: !lines.includes(`${preference}: from all fwmark ${marks.answered}/${marks.mask} lookup ${table}`),
    route: !lines.some((line) => /^local default dev lo( |$)/.test(line)),
  };
}

/** Input of `ip -batch -` that adds what is missing; empty when nothing is. */
export function addRouting(missing: Missing): string {
  // The route first: a rule that points at an empty table would send the answers out.
  return (missing.route ? `route add ${route}\n` : "") + (missing.rule ? `rule add ${rule}\n` : "");
}

/** Input of `ip -batch -` that removes what is there. */
export function removeRouting(missing: Missing): string {
  return (missing.rule ? "" : `rule del ${rule}\n`) + (missing.route ? "" : `route del ${route}\n`);
}
