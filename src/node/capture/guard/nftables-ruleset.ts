import { addressHex, type TcpEntry } from "../carried.js";
import { marks, markMask, maskBits, ports } from "../marks.js";
import type { CaptureSettings } from "../mode.js";
import { absent, chain, counter, declareCounters, drop, elements, withMark } from "../nftables/words.js";
import { tokenMatch, type ProbeToken } from "../host/token.js";

/**
 * The guard where BPF is missing: netfilter cannot know which sockets the data plane registered, and goes by
 * their mark. A process with NET_RAW can set that mark, and a packet socket passes netfilter altogether:
 * this is the weaker form. It holds against everything that has neither, and while nobody flushes it.
 */
export const guardTable = "meltemi-guard";

const counters = [
  "before",
  "excluded",
  "host",
  "plaintext_in",
  "proxy_port",
  "not_for_pod",
  "spoofed",
  "udp",
  "udp_refused",
  "unregistered_socket",
] as const;

const count = (reason: (typeof counters)[number]): string => `${counter(reason)} accept`;

/** A connection as the pod sees it: its own address and port first. */
export type Tuple = Pick<TcpEntry, "local" | "localPort" | "remote" | "remotePort">;

function addressText(hex: string): string {
  if (hex.length === 8) return (hex.match(/../g) ?? []).map((byte) => Number.parseInt(byte, 16)).join(".");
  return (hex.match(/.{4}/g) ?? []).join(":");
}

const element = ({ local, localPort, remote, remotePort }: Tuple): string =>
  `${addressText(local)} . ${localPort} . ${addressText(remote)} . ${remotePort}`;

function set(name: string, type: "ipv4_addr" | "ipv6_addr", tuples: readonly Tuple[]): string[] {
  const filled = tuples.length === 0 ? [] : [`    elements = ${elements(tuples.map(element))}`];
  return [`  set ${name} {`, `    type ${type} . inet_service . ${type} . inet_service`, ...filled, "  }"];
}

const answers = (port: "sport" | "dport", list: readonly number[]): string =>
  `ct direction reply tcp ${port} ${elements(list)} ${count("excluded")}`;

export interface GuardInput {
  readonly settings: CaptureSettings;
  /** Connections that existed when the guard was first set. */
  readonly before: readonly Tuple[];
  /** Proves a first segment to be of the host; undefined where the host cannot give one. */
  readonly token: ProbeToken | undefined;
}

const when = (condition: boolean, ...rules: readonly string[]): readonly string[] => (condition ? rules : []);

function outgoing({ settings }: GuardInput): string[] {
  const { excludeInboundPorts, excludeOutboundPorts, excludeOutboundCidrs, bypassInbound } = settings;
  return [
    'oif "lo" accept',
    `meta l4proto udp ${settings.udp === "refuse" ? drop("udp_refused") : count("udp")}`,
    "meta l4proto != tcp accept",
    `${withMark("==", marks.proxy)} accept`,
    `ct mark & ${markMask} == ${marks.exempt} ct direction reply ${count("host")}`,
    `ip saddr . tcp sport . ip daddr . tcp dport @before4 ${count("before")}`,
    `ip6 saddr . tcp sport . ip6 daddr . tcp dport @before6 ${count("before")}`,
    ...when(
      excludeOutboundPorts.length > 0,
      `tcp dport ${elements(excludeOutboundPorts)} ${count("excluded")}`,
    ),
    ...excludeOutboundCidrs.map(
      (cidr) => `${cidr.includes(":") ? "ip6" : "ip"} daddr ${cidr} ${count("excluded")}`,
    ),
    ...when(excludeInboundPorts.length > 0, answers("sport", excludeInboundPorts)),
    ...when(bypassInbound, `ct direction reply ${count("excluded")}`),
    // Of the kernel itself, to a segment that no socket wants.
    "tcp flags & rst == rst accept",
    drop("unregistered_socket"),
  ];
}

/** Before the redirection, which leaves alone what is marked. */
const recognise = (token: ProbeToken | undefined): readonly string[] =>
  (token === undefined ? [] : tokenMatch(token)).map(
    (match) =>
      `${match} ct mark set ct mark & ${maskBits} | ${marks.exempt} meta mark set meta mark & ${maskBits} | ${marks.exempt}`,
  );

function incoming({ settings }: GuardInput): string[] {
  const { excludeInboundPorts, excludeOutboundPorts, excludeOutboundCidrs, bypassInbound } = settings;
  return [
    'iif "lo" accept',
    `meta l4proto udp ${settings.udp === "refuse" ? drop("udp_refused") : count("udp")}`,
    "meta l4proto != tcp accept",
    `fib saddr type local ${drop("spoofed")}`,
    `ip saddr 127.0.0.0/8 ${drop("spoofed")}`,
    `fib daddr type != local ${drop("not_for_pod")}`,
    `ip daddr 127.0.0.0/8 ${drop("not_for_pod")}`,
    `tcp dport ${elements([ports.outbound, ports.inbound])} ${drop("proxy_port")}`,
    `tcp dport ${ports.tunnel} accept`,
    `ct mark & ${markMask} == ${marks.exempt} ct direction original ${count("host")}`,
    `ip daddr . tcp dport . ip saddr . tcp sport @before4 ${count("before")}`,
    `ip6 daddr . tcp dport . ip6 saddr . tcp sport @before6 ${count("before")}`,
    ...when(
      excludeInboundPorts.length > 0,
      `tcp dport ${elements(excludeInboundPorts)} ${count("excluded")}`,
    ),
    ...when(bypassInbound, `ct direction original ${count("excluded")}`),
    ...when(excludeOutboundPorts.length > 0, answers("sport", excludeOutboundPorts)),
    ...excludeOutboundCidrs.map(
      (cidr) => `ct direction reply ${cidr.includes(":") ? "ip6" : "ip"} saddr ${cidr} ${count("excluded")}`,
    ),
    `socket mark & ${markMask} == ${marks.proxy} accept`,
    // A handshake that the data plane's listener has begun has no full socket yet.
    "socket transparent 1 accept",
    // For a data plane that does not listen: the redirection's own rule refuses it.
    `${withMark("==", marks.unserved)} accept`,
    "tcp flags & rst == rst accept",
    drop("plaintext_in"),
  ];
}

/** Input of `nft -f -`: one transaction that replaces whatever the table was. */
export function guardScript(input: GuardInput): string {
  const of = (length: number): Tuple[] => input.before.filter(({ local }) => local.length === length);
  return [
    ...absent(guardTable),
    `table inet ${guardTable} {`,
    ...declareCounters(counters),
    ...set("before4", "ipv4_addr", of(8)),
    ...set("before6", "ipv6_addr", of(32)),
    ...chain("host", "filter hook prerouting priority mangle - 10", [
      'iif "lo" accept',
      ...recognise(input.token),
    ]),
    // Behind the redirection's chain, which has found the socket, and before any translation.
    ...chain("incoming", "filter hook prerouting priority mangle + 10", incoming(input)),
    // The last: what the redirection has sent to lo goes out through it.
    ...chain("outgoing", "filter hook postrouting priority 300", outgoing(input)),
    "}",
    "",
  ].join("\n");
}

export const removeGuardScript = `${absent(guardTable).join("\n")}\n`;

const elementPattern = /([\da-f:.]+) \. (\d+) \. ([\da-f:.]+) \. (\d+)/g;

/** The connections from before that a listing of the table names. */
export function readBefore(listing: string): readonly Tuple[] {
  return [...listing.matchAll(elementPattern)].map(([, local = "", localPort, remote = "", remotePort]) => ({
    local: addressHex(local),
    localPort: Number(localPort),
    remote: addressHex(remote),
    remotePort: Number(remotePort),
  }));
}
