import { type ChildProcessByStdio, spawn } from "node:child_process";
import type { Readable } from "node:stream";
import { execa } from "execa";
import { MeltemiError } from "../../src/domain/error.js";

/** The path of a named network namespace. */
export const netnsPath = (name: string): string => `/run/netns/${name}`;

/** Runs a command to its end and gives its output; throws with its error output. */
export async function run(command: string, args: readonly string[], input?: string): Promise<string> {
  const result = await execa(command, args, { reject: false, ...(input === undefined ? {} : { input }) });
  if (result.failed) {
    throw new MeltemiError(
      "system",
      `${command} ${args.join(" ")} failed: ${result.stderr || result.shortMessage || ""}`,
    );
  }
  return result.stdout;
}

/** Runs a command inside a network namespace to its end. Not `ip netns exec`, which hides /sys. */
export function runIn(
  netns: string,
  command: string,
  args: readonly string[],
  input?: string,
): Promise<string> {
  return run("nsenter", [`--net=${netnsPath(netns)}`, "--", command, ...args], input);
}

/** Starts a long-running command, inside a network namespace where one is named; the caller ends it. */
export function startIn(
  netns: string | undefined,
  command: string,
  args: readonly string[],
): ChildProcessByStdio<null, Readable, Readable> {
  const [program, rest] =
    netns === undefined
      ? [command, args]
      : ["nsenter", [`--net=${netnsPath(netns)}`, "--", command, ...args]];
  return spawn(program, rest, { stdio: ["ignore", "pipe", "pipe"] });
}

export interface Patience {
  /** 30 s where it is not said: for what never comes. */
  readonly deadlineMs?: number;
  readonly everyMs?: number;
  /** Whether an error of the question ends the waiting, and is thrown. Otherwise it may pass. */
  readonly errorsEnd?: boolean;
}

/**
 * Asks until there is an answer, which `undefined` and `false` are not, and gives it. How long it took is the
 * caller's to report.
 * @throws MeltemiError `unavailable` naming what was waited for, with the last error as its cause
 */
export async function eventually<T>(
  what: string,
  ask: () => Promise<T | undefined | false> | T | undefined | false,
  { deadlineMs = 30_000, everyMs = 50, errorsEnd = false }: Patience = {},
): Promise<T> {
  const deadline = performance.now() + deadlineMs;
  let lastError: unknown;
  for (;;) {
    try {
      const answer = await ask();
      if (answer !== undefined && answer !== false) return answer;
    } catch (error) {
      if (errorsEnd) throw error;
      lastError = error;
    }
    if (performance.now() > deadline) {
      throw new MeltemiError(
        "unavailable",
        `waited in vain for ${what} (${deadlineMs} ms)`,
        lastError === undefined ? {} : { cause: lastError },
      );
    }
    await new Promise((resolve) => setTimeout(resolve, everyMs));
  }
}
