/** What the kernel says of a pod's capture: nothing here asks the mesh. */
import { statSync } from "node:fs";
import { execa } from "execa";
import { netnsPath } from "../../../../demo/lab/command.js";

export type Mode = "bpf" | "nftables" | "iptables";

/** Which redirection is in force in a namespace, and the kernel's own names for it. */
export interface InForce {
  readonly modes: readonly Mode[];
  /** Links of type sk_lookup attached to the namespace. */
  readonly lookupLinks: readonly number[];
  /** TCX links on the pod's interface, and on its other end. */
  readonly guardLinks: readonly number[];
  /** Lines of the rule dumps that redirect. */
  readonly rules: readonly string[];
}

interface Link {
  readonly id: number;
  readonly type: string;
  readonly netns_ino?: number;
  readonly ifindex?: number;
  readonly devname?: string;
  readonly attach_type?: string;
}

async function outputIn(netns: string, ...command: readonly string[]): Promise<string> {
  const { stdout } = await execa("nsenter", [`--net=${netnsPath(netns)}`, "--", ...command], {
    reject: false,
  });
  return stdout;
}

/** Of the whole machine; interfaces are named only where they are in the asker's namespace. */
async function links(netns: string): Promise<Link[]> {
  const text = await outputIn(netns, "bpftool", "--json", "link", "show");
  return text.startsWith("[") ? (JSON.parse(text) as Link[]) : [];
}

/** The other end of the pod's interface: its index in the node's namespace. */
export async function peerIndex(netns: string, device = "eth0"): Promise<number> {
  const text = await outputIn(netns, "ip", "-json", "link", "show", device);
  const [link] = JSON.parse(text || "[]") as { link_index?: number }[];
  return link?.link_index ?? 0;
}

export async function inForce(pod: {
  readonly netns: string;
  readonly node: { readonly netns: string };
}): Promise<InForce> {
  const inode = statSync(netnsPath(pod.netns)).ino;
  const [nft, legacy, inPod, onNode, peer] = await Promise.all([
    outputIn(pod.netns, "nft", "list", "ruleset"),
    outputIn(pod.netns, "sh", "-c", "iptables-legacy-save; ip6tables-legacy-save"),
    links(pod.netns),
    links(pod.node.netns),
    peerIndex(pod.netns),
  ]);
  const lookupLinks = inPod
    .filter(
      ({ type, netns_ino: of, attach_type: kind }) =>
        type === "netns" && kind === "sk_lookup" && of === inode,
    )
    .map(({ id }) => id);
  const guardLinks = [
    ...inPod.filter(({ type, devname }) => type === "tcx" && devname === "eth0"),
    ...onNode.filter(({ type, ifindex }) => type === "tcx" && ifindex === peer),
  ].map(({ id }) => id);
  const lines = (text: string, pattern: RegExp): string[] =>
    text
      .split("\n")
      .map((line) => line.trim())
      .filter((line) => pattern.test(line));
  const own = /^table inet meltemi[\s\S]*?^}/gm;
  const nftables = lines((nft.match(own) ?? []).join("\n"), /redirect to :1500[16]|tproxy .*:15006/);
  const iptables = [
    ...lines(nft.replaceAll(own, ""), /redir(ect)?.*1500[16]|tproxy.*15006/i),
    ...lines(legacy, /(REDIRECT|TPROXY).*1500[16]/),
  ];
  const modes: Mode[] = [];
  if (lookupLinks.length > 0) modes.push("bpf");
  if (nftables.length > 0) modes.push("nftables");
  if (iptables.length > 0) modes.push("iptables");
  return { modes, lookupLinks, guardLinks, rules: [...nftables, ...iptables] };
}

/** As the host's root could: rules flushed, links detached, whichever there are. */
export async function removeRedirection(pod: {
  readonly netns: string;
  readonly node: { readonly netns: string };
}): Promise<void> {
  for (const id of (await inForce(pod)).lookupLinks)
    await outputIn(pod.netns, "bpftool", "link", "detach", "id", String(id));
  const tables = ["nat", "mangle", "raw", "filter"];
  const programs = ["iptables", "ip6tables", "iptables-legacy", "ip6tables-legacy"];
  const flush = programs.flatMap((program) => tables.map((table) => `${program} -t ${table} -F`));
  await outputIn(pod.netns, "sh", "-c", `nft flush ruleset; ${flush.join("; ")}; true`);
}

export type Traces = Readonly<Record<string, string>>;

/** Everything that capture could leave in a namespace and on the node, for comparing before and after. */
export async function traces(pod: {
  readonly netns: string;
  readonly node: { readonly netns: string };
}): Promise<Traces> {
  const rules = [
    "nft list ruleset",
    "iptables-legacy-save | grep -v '^#'",
    "ip6tables-legacy-save | grep -v '^#'",
    "ip rule show",
    "ip -6 rule show",
    "ip route show table all",
    "ip -6 route show table all",
    "sysctl -a 2>/dev/null | grep -E '^net\\.(ipv4|ipv6)\\.(conf|tcp_fwmark|fwmark|ip_forward|tcp_early_demux)' | sort",
  ].join("; ");
  const state = await inForce(pod);
  return {
    pod: await outputIn(pod.netns, "sh", "-c", rules),
    links: JSON.stringify([state.lookupLinks, state.guardLinks]),
    listeners: await outputIn(pod.netns, "sh", "-c", "ss -Hltn | grep -E ':150(01|06|08|53)\\b'"),
    qdiscs: await outputIn(pod.netns, "tc", "qdisc", "show"),
  };
}

/** Established entries of conntrack that the namespace holds. */
export async function conntrackEntries(netns: string): Promise<number> {
  const text = await outputIn(netns, "cat", "/proc/sys/net/netfilter/nf_conntrack_count");
  return Number(text.trim() || "0");
}
