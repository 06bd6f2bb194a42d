import type { CaptureForm, DropCounts, DropReason } from "./mode.js";
import { dropReasons } from "./mode.js";

/**
 * The nftables form of capture: the one table of ours in a pod's namespace (docs/capture.md).
 *
 * - Only the first segment of a connection (SYN alone) is redirected: connections that existed
 *   before enrolment have no address translation and are left alone.
 * - No source address is exempt: an address is no proof of who sends.
 * - The data plane's own sockets carry the mark 0x539. A process with NET_RAW can set it too; that
 *   makes this the weaker form, and the guard's business (docs/threat-model.md).
 * - What the data plane sends to the application with the client's address as source arrives through
 *   lo; its connection is marked, and the application's answers are routed back to lo (routing.ts).
 */
export const captureTable = "meltemi";

export const ports = { outbound: 15001, inbound: 15006, tunnel: 15008 } as const;

/** Mark of the data plane's sockets, and of the connections it makes to the application. */
export const marks = { proxy: "0x539", answered: "0x111", mask: "0xfff" } as const;

const firstSegment = "tcp flags & (fin | syn | rst | ack) == syn";
const ownPorts = `{ ${ports.outbound}, ${ports.inbound} }`;
const fromProxy = `meta mark & ${marks.mask} == ${marks.proxy}`;
const notFromProxy = `meta mark & ${marks.mask} != ${marks.proxy}`;

const declareCounters = dropReasons.map((reason) => `  counter ${reason} { }`);
const drop = (reason: DropReason): string => `counter name ${reason} drop`;

/** The marks that keep connections going which the data plane carries already. */
const keepCarried = {
  beforeRouting: `    iif "lo" ${fromProxy} ct mark set ct mark & 0xfffff000 | ${marks.answered}`,
  routeOut: `    ct direction reply ct mark & ${marks.mask} == ${marks.answered} meta mark set ct mark`,
};

const chain = (name: string, hook: string, rules: readonly string[]): string[] => [
  `  chain ${name} {`,
  `    type ${hook}; policy accept;`,
  ...rules,
  "  }",
];

function redirecting(): string[] {
  return [
    ...chain("before_routing", "filter hook prerouting priority mangle", [
      keepCarried.beforeRouting,
      '    iif "lo" accept',
      `    meta nfproto ipv6 meta l4proto tcp ${drop("ipv6_tcp_in")}`,
      `    tcp dport ${ownPorts} ${firstSegment} ${drop("proxy_port_in")}`,
    ]),
    ...chain("redirect_in", "nat hook prerouting priority dstnat", [
      '    iif "lo" accept',
      `    tcp dport ${ports.tunnel} accept`,
      `    meta nfproto ipv4 ${firstSegment} redirect to :${ports.inbound}`,
    ]),
    ...chain("route_out", "route hook output priority mangle", [
      `    oif "lo" tcp dport ${ownPorts} ${firstSegment} ${notFromProxy} ${drop("proxy_port_loop")}`,
      '    oif "lo" accept',
      `    meta nfproto ipv6 meta l4proto tcp ${drop("ipv6_tcp_out")}`,
      keepCarried.routeOut,
    ]),
    ...chain("redirect_out", "nat hook output priority -100", [
      '    oif "lo" accept',
      `    ${fromProxy} accept`,
      `    meta nfproto ipv4 ${firstSegment} redirect to :${ports.outbound}`,
    ]),
  ];
}

/** The translation of carried connections lives as long as chains of type nat stand: these are empty. */
function draining(): string[] {
  return [
    ...chain("before_routing", "filter hook prerouting priority mangle", [keepCarried.beforeRouting]),
    ...chain("redirect_in", "nat hook prerouting priority dstnat", []),
    ...chain("route_out", "route hook output priority mangle", ['    oif "lo" accept', keepCarried.routeOut]),
    ...chain("redirect_out", "nat hook output priority -100", []),
  ];
}

const absent = [`add table inet ${captureTable}`, `delete table inet ${captureTable}`];

/** Input of `nft -f -`: one transaction that replaces whatever our table was. */
export function applyScript(form: CaptureForm): string {
  const chains = form === "redirecting" ? redirecting() : draining();
  return [...absent, `table inet ${captureTable} {`, ...declareCounters, ...chains, "}", ""].join("\n");
}

/** Input of `nft -f -`: our table gone, also where it was not there. */
export const removeScript = `${absent.join("\n")}\n`;

/** A listing of our table, split in what must not change and the counters. */
export interface Listing {
  readonly rules: string;
  readonly drops: DropCounts;
}

/** Reads the output of `nft list table inet meltemi`. */
export function parseListing(text: string): Listing {
  const drops = new Map<DropReason, number>();
  for (const reason of dropReasons) {
    const packets = new RegExp(`counter ${reason} \\{\\s*packets (\\d+)`).exec(text)?.[1];
    if (packets !== undefined) drops.set(reason, Number(packets));
  }
  return { rules: text.replace(/packets \d+ bytes \d+/g, "packets N bytes N"), drops };
}
