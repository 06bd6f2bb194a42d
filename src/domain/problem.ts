/** Where a user's object stands, as far as it could be read. */
export interface ObjectRef {
  readonly apiVersion: string;
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
}

/** What is wrong, or unwise, about one field of one object. */
export interface Problem {
  /** `error`: the object is not taken, the last good one stays. `warning`: taken. `unsupported`: legal, and not acted upon yet. */
  readonly severity: "error" | "warning" | "unsupported";
  /** Absent where the document could not be read far enough to tell. */
  readonly object?: ObjectRef;
  /** `file.yaml:12` or a cluster's name; absent for problems found later. */
  readonly location?: string;
  /** `spec.rules[0].from[1].source.principals[0]`; empty for the whole object. */
  readonly path: string;
  /** The offending value as text, shortened. */
  readonly value?: string;
  readonly message: string;
  /** What to do about it. */
  readonly hint?: string;
}

/** `Pod shop/cart-1`, `Namespace shop`. */
export function formatRef(ref: ObjectRef): string {
  return `${ref.kind || "(no kind)"} ${ref.namespace === "" ? "" : `${ref.namespace}/`}${ref.name || "(no name)"}`;
}

/** One line for a person: location, object, field, value, what and what to do. */
export function formatProblem(problem: Problem): string {
  const object = problem.object && formatRef(problem.object);
  const where = [problem.location, object, problem.path || undefined]
    .filter((part) => part !== undefined)
    .join(": ");
  const value = problem.value === undefined ? "" : ` (is ${problem.value})`;
  const hint = problem.hint === undefined ? "" : `; ${problem.hint}`;
  return `${problem.severity}: ${where}${value}: ${problem.message}${hint}`;
}
