/** Rules, routes, settings and links that somebody flushes, changes or deletes. */
import { runIn } from "../../../../demo/lab/command.js";
import { detachLink, inForce, shape, type Mode } from "../lab/kernel.js";
import type { Fault, FaultWorld } from "./fault.js";

const captured = ["server", "client"] as const;

const inPods = async ({ lab }: FaultWorld, script: string): Promise<void> => {
  await Promise.all(captured.map((name) => runIn(lab.pod(name).netns, "sh", ["-c", script])));
};
const onNodes = async ({ lab }: FaultWorld, script: string): Promise<void> => {
  await Promise.all(lab.topology.nodes.map(({ netns }) => runIn(netns, "sh", ["-c", script])));
};

/** Redirection and guard of both pods as they were. */
const asBefore = async ({ lab, intact }: FaultWorld): Promise<boolean> => {
  for (const name of captured) if ((await shape(lab.pod(name))) !== intact.get(name)) return false;
  return true;
};

const tables = ["nat", "mangle", "raw", "filter"];
const flushIptables = ["iptables", "ip6tables", "iptables-legacy", "ip6tables-legacy"]
  .flatMap((program) => tables.map((table) => `${program} -t ${table} -F; ${program} -t ${table} -X`))
  .join("; ");

const both = (script: (family: string) => string): string => ["-4", "-6"].map(script).join("; ");

/** All of them, the kernel's own too: in a pod the agent puts back what it needs. */
const flushRules = both((family) => `ip ${family} rule flush`);

/** On a node they are somebody else's, who puts them back at once. */
const flushNodeRules = [
  flushRules,
  "ip rule add pref 32766 lookup main; ip rule add pref 32767 lookup default; ip -6 rule add pref 32766 lookup main",
].join("; ");

/** Every table; what is not the mesh's own comes back at once, as its owner would put it. */
const flushRoutes = both(
  (family) =>
    `saved=$(mktemp); ip ${family} route save table main > $saved; ` +
    `for table in main 100 101; do ip ${family} route flush table $table 2>/dev/null; done; ` +
    `ip ${family} route restore < $saved 2>/dev/null; rm $saved`,
);

const spoilSysctls = [
  "ipv4.conf.all.rp_filter=1",
  "ipv4.conf.eth0.rp_filter=1",
  "ipv4.conf.eth0.accept_local=0",
  "ipv4.tcp_fwmark_accept=0",
  "ipv4.fwmark_reflect=0",
  "ipv6.fwmark_reflect=0",
]
  .map((setting) => `sysctl -q -w net.${setting}`)
  .join("; ");

const everywhere = (what: string, script: string): Fault[] => [
  { name: `${what} in the pods`, strike: (world) => inPods(world, script), repaired: asBefore },
  { name: `${what} on the nodes`, strike: (world) => onNodes(world, script), repaired: asBefore },
];

async function detach({ lab }: FaultWorld, which: "lookupLinks" | "guardLinks"): Promise<void> {
  for (const name of captured) {
    const found = (await inForce(lab.pod(name)))[which];
    if (found.length === 0) throw new Error(`${name} has no ${which}`);
    for (const id of found) await detachLink(id);
  }
}

/**
 * What holds every mode's redirection, at one blow. Only in mode bpf are the kernel's own rules the agent's to put
 * back: in the others somebody else does at once.
 */
export const everythingFlushed = (mode: Mode): Fault => ({
  name: "nftables, iptables, ip rules and routes flushed at once in the pods",
  strike: (world) => {
    const rules = mode === "bpf" ? flushRules : flushNodeRules;
    // Without rules, the owner of the table main could not put its routes back.
    return inPods(world, `nft flush ruleset; ${flushIptables}; ${flushRoutes}; ${rules}; true`);
  },
  repaired: asBefore,
});

export const kernelState: readonly Fault[] = [
  ...everywhere("nftables flushed", "nft flush ruleset"),
  ...everywhere("iptables flushed", `${flushIptables}; true`),
  { name: "ip rules flushed in the pods", strike: (world) => inPods(world, flushRules), repaired: asBefore },
  {
    name: "ip rules flushed on the nodes",
    strike: (world) => onNodes(world, flushNodeRules),
    repaired: asBefore,
  },
  ...everywhere("routes flushed", `${flushRoutes}; true`),
  ...everywhere("sysctls changed", `${spoilSysctls}; true`),
];

export const links: readonly Fault[] = [
  {
    name: "the sk_lookup link detached by the host's root",
    strike: (world) => detach(world, "lookupLinks"),
    repaired: asBefore,
  },
  {
    name: "the guard's links detached by the host's root",
    strike: (world) => detach(world, "guardLinks"),
    repaired: asBefore,
  },
];
