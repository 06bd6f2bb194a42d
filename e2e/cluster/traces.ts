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

/** Processes and namespaces of the cluster: those below its machine's first process, and what they are in. */
export function belonging(machinePid: number): {
  readonly pids: readonly number[];
  readonly namespaces: readonly string[];
} {
  const own = new Set(namespacesOf(process.pid));
  const inPid = new Map([...processes().keys()].map((pid) => [pid, status(pid)] as const));
  const below = (pid: number): boolean =>
    pid === machinePid || (pid > 1 && below(Number(/^PPid:\s+(\d+)/m.exec(inPid.get(pid) ?? "")?.[1] ?? 0)));
  const pids = [...inPid.keys()].filter(below);
  const namespaces = new Set(pids.flatMap(namespacesOf).filter((one) => !own.has(one)));
  return { pids, namespaces: [...namespaces] };
}

function status(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/status`, "utf8");
  } catch {
    return "";
  }
}

/** Of these namespaces, those that a process of this machine is still in. */
export function stillHeld(namespaces: readonly string[]): readonly string[] {
  const held = new Set([...processes().keys()].flatMap(namespacesOf));
  return namespaces.filter((one) => held.has(one));
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
    cgroups: hierarchies().flatMap((root) =>
      readdirSync(root)
        .filter((name) => name.startsWith("meltemi-cluster-"))
        .map((name) => join(root, name)),
    ),
    settings: settings.flatMap((name) => {
      const path = join("/proc/sys", name);
      return existsSync(path) ? [`${name} ${readFileSync(path, "utf8").trim()}`] : [];
    }),
    files: places
      .flatMap((place) => (existsSync(place) ? readdirSync(place).map((name) => join(place, name)) : []))
      .sort(),
    state: existsSync(layout.directory) ? [layout.directory] : [],
  };
}
