/** Everything on the machine that a cluster could leave behind, as far as kernel and files tell. */
import { existsSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { execa } from "execa";
import { hierarchies } from "./cgroups.js";
import type { Layout } from "./layout.js";
import { processes } from "./process-table.js";

export type Traces = Readonly<Record<string, readonly string[]>>;

/** Kernel-wide settings that a kubelet, kube-proxy or an installer would change. */
const settings = [
  "vm/overcommit_memory",
  "vm/panic_on_oom",
  "kernel/panic",
  "kernel/panic_on_oops",
  "kernel/keys/root_maxkeys",
  "kernel/keys/root_maxbytes",
  "kernel/hostname",
  "net/ipv4/ip_forward",
  "net/ipv4/fib_multipath_hash_policy",
  "net/netfilter/nf_conntrack_max",
  "net/bridge/bridge-nf-call-iptables",
];

/** Directories whose entries would tell of something that was put outside of the state directory. */
const places = [
  "/etc",
  "/etc/cni",
  "/etc/kubernetes",
  "/opt",
  "/opt/cni",
  "/run",
  "/run/netns",
  "/var/lib",
  "/var/log",
];

async function lines(command: string, ...args: string[]): Promise<readonly string[]> {
  const { stdout } = await execa(command, args);
  return stdout.split("\n").map((line) => line.trim());
}

/** Namespaces that a process is in, as `net:[4026531840]`. */
function namespacesOf(pid: number): readonly string[] {
  return ["net", "mnt", "pid", "uts", "ipc"].flatMap((kind) => {
    try {
      return [readlinkSync(`/proc/${pid}/ns/${kind}`)];
    } catch {
      return [];
    }
  });
}

/** Processes of a cluster or a node, and what they are in. */
export interface Belongings {
  readonly pids: readonly number[];
  readonly namespaces: readonly string[];
  /** When this was looked at, in seconds since the kernel's start. */
  readonly atSeconds: number;
}

/** Those at and below a first process. */
export function belonging(firstPid: number): Belongings {
  const own = new Set(namespacesOf(process.pid));
  const statuses = new Map([...processes().keys()].map((pid) => [pid, status(pid)] as const));
  const below = (pid: number): boolean =>
    pid === firstPid || (pid > 1 && below(Number(/^PPid:\s+(\d+)/m.exec(statuses.get(pid) ?? "")?.[1] ?? 0)));
  const pids = [...statuses.keys()].filter(below);
  const namespaces = new Set(pids.flatMap(namespacesOf).filter((one) => !own.has(one)));
  const atSeconds = Number(readFileSync("/proc/uptime", "utf8").split(" ")[0]);
  return { pids, namespaces: [...namespaces], atSeconds };
}

function status(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/status`, "utf8");
  } catch {
    return "";
  }
}

/**
 * Of these namespaces, those that a process is still in. Only processes count that were there when they were looked at:
 * the kernel gives a namespace's number to the next one at once.
 */
export function stillHeld({ namespaces, atSeconds }: Belongings): readonly string[] {
  const older = [...processes().keys()].filter((pid) => startedSeconds(pid) <= atSeconds);
  const held = new Set(older.flatMap(namespacesOf));
  return namespaces.filter((one) => held.has(one));
}

/** When a process started, in seconds since the kernel's start (proc(5): field 22, in ticks of 10 ms). */
function startedSeconds(pid: number): number {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19]) / 100;
  } catch {
    return Infinity;
  }
}

/** Paths of a directory's entries, without those of other clusters and tests, which may come and go meanwhile. */
function ownNames(layout: Layout, directory: string): readonly string[] {
  return readdirSync(directory)
    .filter((name) => !name.startsWith("meltemi-") || name === layout.cgroup)
    .map((name) => join(directory, name));
}

export async function traces(layout: Layout): Promise<Traces> {
  const counters = /counter packets \d+ bytes \d+|\[\d+:\d+\]|^#/g;
  const family = [["-4"], ["-6"]];
  const ip = async (...args: string[]) =>
    (await Promise.all(family.map((one) => lines("ip", ...one, ...args)))).flat();
  return {
    processes: [...processes()]
      .filter(([, args]) => args.includes(layout.directory))
      .map(([, args]) => args.join(" ")),
    links: await lines("ip", "-o", "link", "show"),
    routes: (await ip("route", "show", "table", "all")).map((line) => line.replace(/ expires \d+sec/, "")),
    rules: await ip("rule"),
    nft: (await lines("nft", "list", "ruleset")).map((line) => line.replace(counters, "")),
    mounts: readFileSync("/proc/self/mountinfo", "utf8").split("\n"),
    cgroups: hierarchies().flatMap((root) => ownNames(layout, root)),
    settings: settings.flatMap((name) => {
      const path = join("/proc/sys", name);
      return existsSync(path) ? [`${name} ${readFileSync(path, "utf8").trim()}`] : [];
    }),
    files: places.flatMap((place) => (existsSync(place) ? ownNames(layout, place) : [])).sort(),
    state: existsSync(layout.directory) ? [layout.directory] : [],
  };
}
