import type { Files } from "../../platform/files.js";
import type { ProcessIdentity } from "../../platform/process.js";

/** Where the running data plane is written down, for an agent that comes after this one. */
export interface PidFile {
  /** Undefined where there is none, or none that can be read: nothing is taken over then. */
  read(): Promise<ProcessIdentity | undefined>;
  write(identity: ProcessIdentity): Promise<void>;
  remove(): Promise<void>;
}

export function pidFile(files: Files, path: string): PidFile {
  return {
    read: async () => {
      const text = await files.readIfPresent(path);
      return text === undefined ? undefined : parse(text.toString("utf8"));
    },
    write: (identity) => files.writeAtomic(path, `${JSON.stringify(identity)}\n`),
    remove: () => files.remove(path),
  };
}

function parse(text: string): ProcessIdentity | undefined {
  try {
    const value = JSON.parse(text) as Partial<Record<keyof ProcessIdentity, unknown>>;
    const { pid, startTicks, bootId } = value;
    if (typeof pid !== "number" || typeof startTicks !== "number" || typeof bootId !== "string")
      return undefined;
    return { pid, startTicks, bootId };
  } catch {
    return undefined;
  }
}
