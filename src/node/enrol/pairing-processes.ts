import { readFileSync } from "node:fs";
import { MeltemiError } from "../../domain/error.js";

/** When the process began, in clock ticks after boot: field 22 of `stat` in its directory of /proc (proc_pid_stat(5)). */
export function startTicksOf(directory: string): number {
  const stat = readFileSync(`${directory}/stat`, "utf8");
  return Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19]);
}

/**
 * The processes by which pods' namespaces were found (`/proc/PID/ns/net`, also of a host's /proc that is mounted
 * elsewhere). Such a namespace is that process's: once it has ended, its number may be given to another pod's process,
 * which must not be taken for this pod, also where it has got the pod's address.
 */
export class PodProcesses {
  readonly #known = new Map<string, { readonly directory: string; readonly startTicks: number }>();

  constructor(private readonly startOf: (directory: string) => number = startTicksOf) {}

  /**
   * To be called with the namespace open: had the process ended before that, the number that was opened is not the one
   * that is seen now. Throws `conflict` where the pod was paired by another process of the same number.
   */
  refuseAnother(pod: string, reference: string): void {
    const directory = /^((?:\/[^/]+)*\/proc\/\d+)\//.exec(reference)?.[1];
    if (directory === undefined) {
      this.#known.delete(pod);
      return;
    }
    const startTicks = this.startOf(directory);
    const before = this.#known.get(pod);
    if (before?.directory === directory && before.startTicks !== startTicks) {
      throw new MeltemiError("conflict", `${directory} is another process than the pod's, which has ended`, {
        hint: "name the pod's namespace anew: by a process that lives, or by a name as in `ip netns`",
      });
    }
    this.#known.set(pod, { directory, startTicks });
  }

  forget(pod: string): void {
    this.#known.delete(pod);
  }
}
