/** Everything that can go wrong for a person, as a closed set. */
export type ErrorCode =
  | "bad_input"
  | "not_found"
  | "conflict"
  | "unauthenticated"
  | "forbidden"
  | "unavailable"
  | "unsupported"
  | "system"
  | "internal";

/** The one error class: `message` says what happened, `hint` what to do next. */
export class MeltemiError extends Error {
  readonly code: ErrorCode;
  readonly hint: string | undefined;

  constructor(code: ErrorCode, message: string, options: { hint?: string; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "MeltemiError";
    this.code = code;
    this.hint = options.hint;
  }
}

/** The message of anything thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
