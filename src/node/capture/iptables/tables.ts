import type { Netns } from "../mode.js";
import type { Tools } from "../tool.js";

/** Where `iptables-nft` makes tables and built-in chains when it needs them, and never takes them away again. */
const ours: ReadonlySet<string> = new Set(["ip mangle", "ip nat", "ip6 mangle", "ip6 nat"]);

/** What of these there is: `FAMILY TABLE` and `FAMILY TABLE CHAIN`; with what is in a chain besides its own line. */
function read(text: string): ReadonlyMap<string, readonly string[]> {
  const found = new Map<string, string[]>();
  let table = "";
  let chain: string | undefined;
  for (const line of text.split("\n").map((one) => one.trim())) {
    table = /^table (\S+ \S+) \{$/u.exec(line)?.[1] ?? table;
    if (!ours.has(table)) continue;
    if (!found.has(table)) found.set(table, []);
    const name = /^chain (\S+) \{$/u.exec(line)?.[1];
    if (name !== undefined) chain = `${table} ${name}`;
    if (chain === undefined) continue;
    const content = found.get(chain) ?? [];
    found.set(chain, content);
    if (line === "}") chain = undefined;
    else if (name === undefined && line !== "" && !/^type .* policy accept;$/u.test(line)) content.push(line);
  }
  return found;
}

/** The names of what there is; none where there is no `nft` to ask. */
export async function tablesOf(tools: Tools, netns: Netns): Promise<readonly string[]> {
  return [...read((await tools.ask(netns, "nft", ["list", "ruleset"])) ?? "").keys()];
}

/** Deletes built-in chains and tables that were not there before, where nobody has put anything into them. */
export async function leftoverTables(tools: Tools, netns: Netns, before: readonly string[]): Promise<void> {
  const present = read((await tools.ask(netns, "nft", ["list", "ruleset"])) ?? "");
  const isTable = (name: string): boolean => ours.has(name);
  const emptyChains = [...present].filter(
    ([name, content]) => !isTable(name) && !before.includes(name) && content.length === 0,
  );
  const deleted = new Set(emptyChains.map(([name]) => name));
  const emptyTables = [...present.keys()].filter(
    (name) =>
      isTable(name) &&
      !before.includes(name) &&
      [...present.keys()].every((other) => !other.startsWith(`${name} `) || deleted.has(other)),
  );
  const script = [
    ...[...deleted].map((name) => `delete chain ${name}\n`),
    ...emptyTables.map((name) => `delete table ${name}\n`),
  ].join("");
  if (script !== "") await tools.must(netns, "nft", ["-f", "-"], script);
}
