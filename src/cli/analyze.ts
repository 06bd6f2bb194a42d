import { stringify } from "yaml";
import { formatProblem, type Problem } from "../domain/problem.js";
import type { Analysis, KindCount } from "./analysis.js";

export { analyzeDirectory, type Analysis, type AnalyzeOptions } from "./analysis.js";

export const analysisFormats = ["table", "json", "yaml"] as const;
export type AnalysisFormat = (typeof analysisFormats)[number];

const severities = ["error", "warning", "unsupported"] as const satisfies readonly Problem["severity"][];

/** 1 where anything is an error, else 0. */
export function analysisExitCode(analysis: Analysis): 0 | 1 {
  return analysis.problems.some(({ severity }) => severity === "error") ? 1 : 0;
}

/** `a.yaml:9` before `a.yaml:12`. */
function byLocation(a: Problem, b: Problem): number {
  const [fileA = "", lineA = "0"] = (a.location ?? "").split(/:(?=\d+$)/);
  const [fileB = "", lineB = "0"] = (b.location ?? "").split(/:(?=\d+$)/);
  return fileA === fileB ? Number(lineA) - Number(lineB) : fileA < fileB ? -1 : 1;
}

function table(rows: readonly (readonly string[])[]): string[] {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return rows.map((row) =>
    row
      .map((cell, column) =>
        column === 0 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0),
      )
      .join("  "),
  );
}

function kindRow({ kind, understood, unsupported, refused }: KindCount): string[] {
  const cell = (count: number): string => (count === 0 ? "-" : String(count));
  return [kind, cell(understood), cell(unsupported), cell(refused)];
}

function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

function textOf(analysis: Analysis): string {
  const { problems } = analysis;
  const lines = severities.flatMap((severity) =>
    problems
      .filter((problem) => problem.severity === severity)
      .sort(byLocation)
      .map(formatProblem),
  );
  if (lines.length > 0) lines.push("");
  if (analysis.kinds.length > 0) {
    lines.push(...table([["KIND", "UNDERSTOOD", "NOT YET", "REFUSED"], ...analysis.kinds.map(kindRow)]), "");
  }
  const count = (severity: Problem["severity"]): number =>
    problems.filter((problem) => problem.severity === severity).length;
  lines.push(
    `${plural(analysis.objects, "object")} in ${plural(analysis.files, "file")}: ` +
      `${analysis.understood} understood, ${analysis.unsupported} not supported yet, ${analysis.refused} refused; ` +
      `${plural(count("error"), "error")}, ${plural(count("warning"), "warning")}`,
  );
  return `${lines.join("\n")}\n`;
}

/** The analysis as it goes to standard output. `json` and `yaml` hold the fields of `Analysis`. */
export function formatAnalysis(analysis: Analysis, format: AnalysisFormat): string {
  switch (format) {
    case "table":
      return textOf(analysis);
    case "json":
      return `${JSON.stringify(analysis, undefined, 2)}\n`;
    case "yaml":
      return stringify(analysis, { aliasDuplicateObjects: false });
  }
}
