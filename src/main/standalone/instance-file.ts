/** `instance.json`: who owns a run directory, and which processes it has started. Survives a kill. */
import { join } from "node:path";
import { instanceShape, type Instance } from "../../cli/run-directory.js";
import { MeltemiError, messageOf } from "../../domain/error.js";
import type { Files } from "../../platform/files.js";
import type { ProcessIdentity, Processes } from "../../platform/process.js";

export type InstanceChild = Instance["children"][number];

export class InstanceFile {
  readonly #path: string;
  readonly #files: Files;
  readonly #head: Omit<Instance, "children">;
  readonly #children = new Map<string, InstanceChild>();
  #writing: Promise<void> = Promise.resolve();

  constructor(files: Files, head: Omit<Instance, "children">) {
    this.#path = join(head.runDir, "instance.json");
    this.#files = files;
    this.#head = head;
  }

  /** Notes a child that runs, or that it no longer does. Resolves when that is on disk. */
  set(
    name: string,
    child: { readonly identity: ProcessIdentity; readonly netns: string | undefined } | undefined,
  ): Promise<void> {
    if (child === undefined) this.#children.delete(name);
    else
      this.#children.set(name, {
        name,
        ...child.identity,
        ...(child.netns === undefined ? {} : { netns: child.netns }),
      });
    return this.write();
  }

  /** One write after the other, so that the last one is of the last state. */
  write(): Promise<void> {
    const next = this.#writing.then(() =>
      this.#files.writeAtomic(
        this.#path,
        `${JSON.stringify({ ...this.#head, children: [...this.#children.values()] }, undefined, 2)}\n`,
      ),
    );
    this.#writing = next.catch(() => undefined);
    return next;
  }

  async remove(): Promise<void> {
    await this.#writing;
    await this.#files.remove(this.#path);
  }
}

/**
 * What an earlier instance left in the run directory; its children in the order they were started.
 * Throws `conflict` when that instance still runs.
 */
export async function readFormerInstance(
  files: Files,
  processes: Processes,
  runDir: string,
): Promise<Instance | undefined> {
  const text = await files.readIfPresent(join(runDir, "instance.json"));
  if (text === undefined) return undefined;
  let former: Instance;
  try {
    former = instanceShape.parse(JSON.parse(text.toString("utf8")));
  } catch (error) {
    throw new MeltemiError("bad_input", `${join(runDir, "instance.json")} is damaged: ${messageOf(error)}`, {
      hint: "end the processes of the former instance, and remove the run directory",
      cause: error,
    });
  }
  const owner = await processes.adopt(former);
  if (owner === undefined) return former;
  owner.release();
  throw new MeltemiError("conflict", `meltemi standalone already runs in ${runDir} (process ${former.pid})`, {
    hint: "end it, or choose another --run-dir and --state-dir",
  });
}
