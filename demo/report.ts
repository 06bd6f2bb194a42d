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

/** The rows for a program: one JSON object. */
export function renderJson(rows: readonly RowResult[]): string {
  return JSON.stringify({ rows, ok: rows.every((row) => row.ok) });
}
