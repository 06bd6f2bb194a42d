/** What a reading command found, and how it is printed. */
import { MeltemiError } from "../domain/error.js";
import { formatTable } from "./table.js";

export const outputFormats = ["table", "wide", "json", "yaml"] as const;
export type OutputFormat = (typeof outputFormats)[number];

export interface Column {
  readonly heading: string;
  /** Only with `-o wide`. */
  readonly wide?: boolean;
}

export interface Section {
  readonly title?: string;
  readonly columns: readonly Column[];
  readonly rows: readonly (readonly string[])[];
  /** Printed instead of an empty table. */
  readonly empty: string;
}

export interface View {
  /** What `-o json` and `-o yaml` print. */
  readonly data: unknown;
  readonly sections: readonly Section[];
  /** Sentences for the person, after the tables; they go to standard error. */
  readonly notes: readonly string[];
}

/** Throws `bad_input` that lists the formats. */
export function parseOutputFormat(text: string): OutputFormat {
  const format = outputFormats.find((known) => known === text);
  if (format === undefined) {
    throw new MeltemiError("bad_input", `"${text}" is not an output format`, {
      hint: `one of: ${outputFormats.join(", ")}`,
    });
  }
  return format;
}

function sectionText({ title, columns, rows, empty }: Section, wide: boolean): string {
  const heading = title === undefined ? "" : `${title}\n`;
  if (rows.length === 0) return `${heading}${empty}\n`;
  const shown = columns
    .map((column, index) => ({ column, index }))
    .filter(({ column }) => wide || column.wide !== true);
  return `${heading}${formatTable(
    shown.map(({ column }) => column.heading),
    rows.map((row) => shown.map(({ index }) => row[index] ?? "")),
  )}`;
}

/** The text for standard output. */
export async function formatView(view: View, format: OutputFormat): Promise<string> {
  switch (format) {
    case "json":
      return `${JSON.stringify(view.data, undefined, 2)}\n`;
    case "yaml": {
      const { stringify } = await import("yaml");
      return stringify(view.data, { aliasDuplicateObjects: false });
    }
    case "table":
    case "wide":
      return view.sections.map((section) => sectionText(section, format === "wide")).join("\n");
  }
}
