/** The cluster's cgroups: one directory below every hierarchy, the containers' below it. */
import { mkdirSync, readdirSync, readFileSync, rmdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { MeltemiError } from "../../src/domain/error.js";

const mountPoint = "/sys/fs/cgroup";

/** Roots of the hierarchies: one each for version 1, or the one of version 2. */
export function hierarchies(): readonly string[] {
  const unified = readFileSync("/proc/self/mounts", "utf8")
    .split("\n")
    .some((line) => line.includes(` ${mountPoint} cgroup2 `));
  if (unified) return [mountPoint];
  return readdirSync(mountPoint)
    .map((name) => join(mountPoint, name))
    .filter((path) => statSync(path).isDirectory());
}

/** Makes a cgroup in every hierarchy. */
export function makeCgroup(name: string): void {
  for (const root of hierarchies()) mkdirSync(join(root, name), { recursive: true });
}

/** Removes a cgroup and all below it, whose processes have ended; waits for the kernel to let go. */
export async function removeCgroup(name: string, deadlineMs = 10_000): Promise<void> {
  const deadline = performance.now() + deadlineMs;
  for (;;) {
    const left = hierarchies().filter((root) => !removed(join(root, name)));
    if (left.length === 0) return;
    if (performance.now() > deadline)
      throw new MeltemiError("system", `cgroup ${name} is still in use in ${left.join(", ")}`);
    await sleep(50);
  }
}

function removed(path: string): boolean {
  let names: readonly string[];
  try {
    names = readdirSync(path, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name);
  } catch {
    return true;
  }
  const below = names.map((one) => removed(join(path, one)));
  if (below.includes(false)) return false;
  try {
    rmdirSync(path);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "ENOENT";
  }
}
