/** Tables as kubectl prints them. */

/** Text in columns: headings in capitals, three spaces between, nothing to the right of the last. */
export function formatTable(headings: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = headings.map((heading, column) =>
    Math.max(heading.length, ...rows.map((row) => (row[column] ?? "").length)),
  );
  const line = (cells: readonly string[]): string =>
    headings
      .map((_heading, column) => (cells[column] ?? "").padEnd(widths[column] ?? 0))
      .join("   ")
      .trimEnd();
  return [headings.map((heading) => heading.toUpperCase()), ...rows].map((row) => `${line(row)}\n`).join("");
}

/** Something to show where a value is missing. */
export const orDash = (text: string | number | undefined | null): string =>
  text === undefined || text === null || text === "" ? "-" : String(text);

/** A list in one cell; long ones are cut. */
export function listCell(items: readonly string[], most = 3): string {
  if (items.length === 0) return "-";
  const shown = items.slice(0, most).join(",");
  return items.length > most ? `${shown},+${items.length - most}` : shown;
}

/** `90s`, `15m`, `5h`, `12d` from milliseconds, as kubectl shows ages. */
export function age(ms: number): string {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 120) return `${seconds}s`;
  if (seconds < 120 * 60) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 48 * 3600) return `${Math.floor(seconds / 3600)}h`;
  return `${Math.floor(seconds / 86_400)}d`;
}

/** `1.5 MiB` from a count of bytes. */
export function byteCount(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit] ?? ""}`;
}
