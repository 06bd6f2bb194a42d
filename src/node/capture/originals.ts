import type { Netns } from "./mode.js";

/** What a namespace had before capture and has to get back. */
export interface Originals {
  /** Values by name below `net/`. */
  readonly sysctls: Readonly<Record<string, string>>;
  /** Tables and chains of netfilter that were there (iptables/tables.ts); undefined where nobody has asked. */
  readonly tables?: readonly string[];
}

export const noOriginals: Originals = { sysctls: {} };

const isText = (value: unknown): value is string => typeof value === "string";

/** Whether a value read from a file is one. */
export function isOriginals(value: unknown): value is Originals {
  const { sysctls, tables } = (value ?? {}) as Partial<Record<keyof Originals, unknown>>;
  if (typeof sysctls !== "object" || sysctls === null || !Object.values(sysctls).every(isText)) return false;
  return tables === undefined || (Array.isArray(tables) && tables.every(isText));
}

/** The sysctls of a namespace (the addon's calls). */
export interface Sysctls {
  readNetnsSysctls(fd: number, names: readonly string[]): Promise<readonly (string | null)[]>;
  writeNetnsSysctl(fd: number, name: string, value: string): Promise<void>;
}

/** The present values of those that exist. */
export async function readSysctls(
  access: Sysctls,
  netns: Netns,
  names: readonly string[],
): Promise<Record<string, string>> {
  const values = await access.readNetnsSysctls(netns.fd, names);
  return Object.fromEntries(
    names.flatMap((name, index) => {
      const value = values[index];
      return typeof value === "string" ? [[name, value]] : [];
    }),
  );
}

/** Writes those that exist and differ. An interface that has gone took its sysctls with it. */
export async function writeSysctls(
  access: Sysctls,
  netns: Netns,
  values: Readonly<Record<string, string>>,
): Promise<void> {
  const present = await readSysctls(access, netns, Object.keys(values));
  for (const [name, value] of Object.entries(values)) {
    if (name in present && present[name] !== value) await access.writeNetnsSysctl(netns.fd, name, value);
  }
}
