/** The cluster's cgroups: one directory below every hierarchy, the containers' below it. */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
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

/** Makes a cgroup, that processes can be put into, in every hierarchy; the one above it has to be there. */
export function makeCgroup(name: string): void {
  for (const root of hierarchies()) {
    const path = join(root, name);
    mkdirSync(path, { recursive: true });
    // Version 1's has neither processors nor memory of its own accord, and takes no process then.
    for (const file of ["cpuset.cpus", "cpuset.mems"]) {
      const above = join(dirname(path), file);
      if (root.endsWith("cpuset") && existsSync(above)) writeFileSync(join(path, file), readFileSync(above));
    }
  }
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
