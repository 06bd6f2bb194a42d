import { eventually as ask } from "../../demo/lab/command.js";

/** The demo's `eventually` as tests want it: looking often, and an error is a failure at once. */
export function eventually<T>(
  what: string,
  probe: Parameters<typeof ask<T>>[1],
  deadlineMs = 10_000,
): Promise<T> {
  return ask(what, probe, { deadlineMs, everyMs: 10, errorsEnd: true });
}
