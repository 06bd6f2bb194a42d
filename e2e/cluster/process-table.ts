/** The machine's processes as /proc tells of them. */
import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { MeltemiError } from "../../src/domain/error.js";

/** Process ids and their arguments; those without (kernel threads, processes that are ending) are left out. */
export function processes(): ReadonlyMap<number, readonly string[]> {
  const found = new Map<number, readonly string[]>();
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const text = readFileSync(`/proc/${name}/cmdline`, "utf8");
      if (text !== "") found.set(Number(name), text.split("\0").slice(0, -1));
    } catch {
      // It has ended meanwhile.
    }
  }
  return found;
}

/**
 * Those that run `sh -c SCRIPT MARK...` or have that as the end of their arguments, as `unshare` does that started it.
 * `shell` tells the two apart.
 */
export function marked(
  mark: readonly string[],
): readonly { readonly pid: number; readonly shell: boolean }[] {
  return [...processes()].flatMap(([pid, args]) => {
    const tail = args.slice(-mark.length);
    if (!mark.every((word, index) => tail[index] === word) || args.at(-mark.length - 2) !== "-c") return [];
    return [{ pid, shell: args[0] === "sh" && args.length === mark.length + 3 }];
  });
}

/** Kills processes and waits until they are gone. */
export async function killAll(pids: readonly number[], deadlineMs = 20_000): Promise<void> {
  const signal = (pid: number, name: NodeJS.Signals | 0): boolean => {
    try {
      process.kill(pid, name);
      return true;
    } catch {
      return false;
    }
  };
  for (const pid of pids) signal(pid, "SIGKILL");
  const deadline = performance.now() + deadlineMs;
  const alive = (pid: number): boolean => signal(pid, 0) && !isZombie(pid);
  while (pids.some(alive)) {
    if (performance.now() > deadline)
      throw new MeltemiError("system", `processes ${pids.filter(alive).join(", ")} do not end after SIGKILL`);
    await sleep(20);
  }
}

function isZombie(pid: number): boolean {
  try {
    return /^State:\tZ/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return true;
  }
}
