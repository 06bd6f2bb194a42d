import { readCounts } from "../counts.js";
import type { Counts } from "../mode.js";
import { countedBy, jumps, tables } from "./ruleset.js";

/** What `iptables-save -c` says of our chains, split in what must not change and the counters. */
export interface Listing {
  readonly rules: string;
  readonly counts: Counts;
}

const ours: ReadonlySet<string> = new Set(jumps.map(({ to }) => to));
const counted = new RegExp(`^\\[(\\d+):\\d+\\] .*"?${countedBy}(\\w+)`, "u");

export function parseListing(text: string): Listing {
  const counts = new Map<string, number>();
  const rules: string[] = [];
  let table = "";
  for (const line of text.split("\n")) {
    if (line.startsWith("*")) table = line.slice(1).trim();
    if (!tables.some((one) => one === table)) continue;
    const rule = /-A (\S+) (.*)$/u.exec(line);
    const [, chain = "", words = ""] = rule ?? [];
    const jumpsToUs = jumps.some(({ from, to }) => from === chain && words === `-j ${to}`);
    if (!ours.has(chain) && !jumpsToUs) continue;
    rules.push(`${table} ${chain} ${words}`);
    const [, packets, reason = ""] = counted.exec(line) ?? [];
    if (packets !== undefined) counts.set(reason, (counts.get(reason) ?? 0) + Number(packets));
  }
  return { rules: rules.join("\n"), counts: readCounts(counts) };
}
