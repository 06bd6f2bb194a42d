/** What the kernel says of a pod's capture: nothing here asks the mesh. */
import { statSync } from "node:fs";
import { execa } from "execa";
import { netnsPath, run } from "../../../../demo/lab/command.js";
import { testkit } from "./kit.js";

export type Mode = "bpf" | "nftables" | "iptables";

/** Which redirection is in force in a namespace, and the kernel's own names for it. */
export interface InForce {
  readonly modes: readonly Mode[];
  /** Links of type sk_lookup attached to the namespace. */
  readonly lookupLinks: readonly number[];
  /** TCX links on the host's end of the pod's interface. */
  readonly guardLinks: readonly number[];
  /** Lines of the rule dumps that redirect. */
  readonly rules: readonly string[];
}

interface Link {
  readonly id: number;
  readonly type: string;
  readonly netns_ino?: number;
  readonly attach_type?: string;
}

async function outputIn(netns: string, ...command: readonly string[]): Promise<string> {
  const { stdout } = await execa("nsenter", [`--net=${netnsPath(netns)}`, "--", ...command], {
    reject: false,
  });
  return stdout;
}

/** Of the whole machine. */
async function links(): Promise<Link[]> {
  const { stdout } = await execa("bpftool", ["--json", "link", "show"], { reject: false });
  return stdout.startsWith("[") ? (JSON.parse(stdout) as Link[]) : [];
}

/** The TCX links on an interface, both ways (Debian's bpftool does not know them). */
async function tcxLinks(netns: string, device: string): Promise<number[]> {
  const text = await outputIn(netns, testkit, "kernel", "tcx", "--device", device);
  if (!text.startsWith("{")) return [];
  const { ingress, egress } = JSON.parse(text) as { ingress: number[]; egress: number[] };
  return [...ingress, ...egress];
}

/** As the host's root: the link exists further, and does nothing. */
export async function detachLink(id: number): Promise<void> {
  await run(testkit, ["kernel", "detach", "--link", String(id)]);
}

/** The other end of the pod's interface: its name in the node's namespace. */
async function hostEnd(netns: string, node: string): Promise<string> {
  const [own] = JSON.parse(await outputIn(netns, "ip", "-json", "link", "show", "eth0")) as {
    link_index?: number;
  }[];
  const all = JSON.parse(await outputIn(node, "ip", "-json", "link", "show")) as {
    ifindex: number;
    ifname: string;
  }[];
  return all.find(({ ifindex }) => ifindex === own?.link_index)?.ifname ?? "";
}

export async function inForce(pod: {
  readonly netns: string;
  readonly node: { readonly netns: string };
}): Promise<InForce> {
  const inode = statSync(netnsPath(pod.netns)).ino;
  const [nft, legacy, routing, all, guardLinks] = await Promise.all([
    outputIn(pod.netns, "nft", "list", "ruleset"),
    outputIn(pod.netns, "sh", "-c", "iptables-legacy-save; ip6tables-legacy-save"),
    outputIn(pod.netns, "sh", "-c", "ip rule show; ip -6 rule show"),
    links(),
    hostEnd(pod.netns, pod.node.netns).then((device) => tcxLinks(pod.node.netns, device)),
  ]);
  const lookupLinks = all
    .filter(
      ({ type, netns_ino: of, attach_type: kind }) =>
        type === "netns" && kind === "sk_lookup" && of === inode,
    )
    .map(({ id }) => id);
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
  // While a pod leaves, this rule is narrowed to a mark, and the link stays.
  const throughLoopback = lines(routing, /from all ipproto tcp lookup 100$/);
  const modes: Mode[] = [];
  if (lookupLinks.length > 0 && throughLoopback.length > 0) modes.push("bpf");
  if (nftables.length > 0) modes.push("nftables");
  if (iptables.length > 0) modes.push("iptables");
  return { modes, lookupLinks, guardLinks, rules: [...nftables, ...iptables, ...throughLoopback] };
}

/** Whether links hold the pod's guard, both ways: they are made a moment after its enrolment. */
export const isLinked = async (pod: Parameters<typeof inForce>[0]): Promise<boolean> =>
  (await inForce(pod)).guardLinks.length === 2;

/** As the host's root could: rules flushed, links detached, whichever there are. */
export async function removeRedirection(pod: {
  readonly netns: string;
  readonly node: { readonly netns: string };
}): Promise<void> {
  for (const id of (await inForce(pod)).lookupLinks) await detachLink(id);
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
    // Link-local ones come when their address has proved to be unique, whatever capture does.
    "ip -6 route show table all | grep -vE 'fe80:|ff00::/'",
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

/** Sysctls that a mode may set in a pod. */
const sysctls = [
  "net.ipv4.conf.all.rp_filter",
  "net.ipv4.conf.eth0.rp_filter",
  "net.ipv4.conf.eth0.accept_local",
  "net.ipv4.tcp_fwmark_accept",
  "net.ipv4.fwmark_reflect",
  "net.ipv6.fwmark_reflect",
];

/** What of capture stands in a pod's namespace and at its interface, without the numbers that change with use. */
export async function shape(pod: {
  readonly netns: string;
  readonly node: { readonly netns: string };
}): Promise<string> {
  const script = [
    "nft list ruleset",
    "ip rule show",
    "ip -6 rule show",
    ...["main", "100", "101"].flatMap((table) => [
      `ip route show table ${table} 2>/dev/null`,
      `ip -6 route show table ${table} 2>/dev/null | grep -vE 'fe80:|ff00::/'`,
    ]),
    `sysctl ${sysctls.join(" ")}`,
  ].join("; ");
  const [state, text] = await Promise.all([inForce(pod), outputIn(pod.netns, "sh", "-c", script)]);
  const [others, counters] = [/^table (?!inet meltemi)[\s\S]*?^}\n/gm, /(packets|bytes) \d+/g];
  const { modes, lookupLinks, guardLinks } = state;
  const numbers = [modes.join(), lookupLinks.length, guardLinks.length];
  return [...numbers, ...state.rules, text.replaceAll(others, "")].join("\n").replaceAll(counters, "$1 N");
}
