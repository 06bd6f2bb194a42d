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

/**
 * Asks until the answer is one, and gives it. The deadline is for what never comes; how long it took
 * is the caller's to report.
 * @throws MeltemiError `unavailable` naming what was waited for
 */
export async function eventually<T>(
  what: string,
  ask: () => Promise<T | undefined> | T | undefined,
  options: { deadlineMs?: number; everyMs?: number } = {},
): Promise<T> {
  const deadline = performance.now() + (options.deadlineMs ?? 30_000);
  let lastError: unknown;
  for (;;) {
    try {
      const answer = await ask();
      if (answer !== undefined) return answer;
    } catch (error) {
      lastError = error;
    }
    if (performance.now() > deadline) {
      throw new MeltemiError(
        "unavailable",
        `waited in vain for ${what}`,
        lastError === undefined ? {} : { cause: lastError },
      );
    }
    await new Promise((resolve) => setTimeout(resolve, options.everyMs ?? 50));
  }
}
