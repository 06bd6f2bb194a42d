import type { ObjectRef, Problem } from "../../domain/problem.js";

/** What a problem says besides where it is. */
export interface Finding {
  readonly value?: unknown;
  readonly message: string;
  readonly hint?: string | undefined;
}

/** The problems of one object while it is read; all of them, not the first. */
export class Report {
  readonly problems: Problem[] = [];
  /** Set as soon as the object's name is known, so that every later problem names it. */
  object: ObjectRef | undefined;
  /** Whether an error was found: the object must not be taken. */
  failed = false;

  error(path: string, finding: Finding): void {
    this.failed = true;
    this.#add("error", path, finding);
  }

  warning(path: string, finding: Finding): void {
    this.#add("warning", path, finding);
  }

  unsupported(path: string, finding: Finding): void {
    this.#add("unsupported", path, finding);
  }

  #add(severity: Problem["severity"], path: string, finding: Finding): void {
    if (this.problems.some((problem) => problem.path === path && problem.message === finding.message)) return;
    this.problems.push({
      severity,
      ...(this.object && { object: this.object }),
      path,
      ...(finding.value !== undefined && { value: shown(finding.value) }),
      message: finding.message,
      ...(finding.hint !== undefined && { hint: finding.hint }),
    });
  }
}

const shownLength = 80;

/** A value as a person would recognise it, shortened to 80 characters. */
export function shown(value: unknown): string {
  const text = printable(value);
  return text.length <= shownLength ? text : `${text.slice(0, shownLength - 1)}…`;
}

function printable(value: unknown): string {
  if (typeof value === "bigint" || typeof value === "number") return String(value);
  try {
    // Undefined for what JSON does not have, such as functions.
    const text = JSON.stringify(value) as string | undefined;
    return text ?? `a ${typeof value}`;
  } catch {
    return `a ${typeof value}`;
  }
}
