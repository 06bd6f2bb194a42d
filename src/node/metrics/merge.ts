/**
 * Merges Prometheus texts into one page: the agent's own and its data plane's. A family (HELP, TYPE and
 * samples) that occurs in both is written once, with all its samples together, as the format demands.
 */
interface Family {
  readonly head: Map<"HELP" | "TYPE", string>;
  readonly samples: string[];
}

const headLine = /^# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*)(?: |$)/;
const sampleName = /^[a-zA-Z_:][a-zA-Z0-9_:]*/;

export function mergeExpositions(texts: readonly string[]): string {
  const families = new Map<string, Family>();
  for (const text of texts) read(text, families);
  const lines: string[] = [];
  for (const { head, samples } of families.values()) {
    for (const kind of ["HELP", "TYPE"] as const) {
      const line = head.get(kind);
      if (line !== undefined) lines.push(line);
    }
    lines.push(...samples);
  }
  return lines.length === 0 ? "" : `${lines.join("\n")}\n`;
}

function read(text: string, families: Map<string, Family>): void {
  let current = "";
  for (const line of text.split("\n")) {
    const head = headLine.exec(line);
    if (head !== null) {
      current = head[2] ?? "";
      const family = familyOf(current, families);
      const kind = head[1] === "HELP" ? "HELP" : "TYPE";
      if (!family.head.has(kind)) family.head.set(kind, line);
      continue;
    }
    const name = sampleName.exec(line)?.[0];
    if (name === undefined) continue;
    // `x_bucket`, `x_sum`, `x_count` and OpenMetrics' `x_total` belong to the family announced before them.
    if (!name.startsWith(current) || current === "") current = name;
    familyOf(current, families).samples.push(line);
  }
}

function familyOf(name: string, families: Map<string, Family>): Family {
  let family = families.get(name);
  if (family === undefined) families.set(name, (family = { head: new Map(), samples: [] }));
  return family;
}
