import pc from "picocolors";

/** What one row of the demo found. */
export interface RowResult {
  readonly name: string;
  readonly expected: string;
  readonly seen: string;
  readonly ok: boolean;
}

/** The rows as a table for a person. */
export function renderTable(rows: readonly RowResult[]): string {
  const width = Math.max(...rows.map((row) => row.name.length));
  return rows
    .map((row) => {
      const mark = row.ok ? pc.green("ok  ") : pc.red("FAIL");
      const indent = `\n${" ".repeat(6)}`;
      return `${mark}  ${row.name.padEnd(width)}${indent}${pc.dim("expected")}  ${row.expected}${indent}${pc.dim("seen")}      ${row.seen}`;
    })
    .join("\n");
}

/** How the pods are captured, as their agents say. */
export interface CaptureChoice {
  readonly mode: string;
  readonly guard: string;
  /** Why, where it is not the first choice. */
  readonly reason: string;
}

const guards: Readonly<Record<string, string>> = {
  bpf: "BPF at the host's end of the pods' links",
  "bpf-in-pod": "BPF inside the pods",
  nftables: "nftables, the weaker form",
  none: "none",
};

/** The header: what brings connections to the data plane, and what stops the others. */
export function captureLine({ mode, guard, reason }: CaptureChoice): string {
  return `redirection ${mode}, guard ${guards[guard] ?? guard}${reason === "" ? "" : ` (${reason})`}`;
}

/** The rows for a program: one JSON object. */
export function renderJson(rows: readonly RowResult[], capture: CaptureChoice): string {
  return JSON.stringify({ rows, ok: rows.every((row) => row.ok), capture });
}
