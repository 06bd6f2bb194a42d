import type { CaptureForm, CaptureSettings } from "../mode.js";
import { marks, markMask, maskBits, ports } from "../marks.js";
import { absent, chain, counter, declareCounters, drop, elements, firstSegment, withMark } from "./words.js";

/**
 * Redirection by nftables: the one table of ours in a pod's namespace (docs/capture.md), for IPv4 and IPv6.
 *
 * - Only the first segment of a connection (SYN alone) is redirected: connections that existed before
 *   enrolment are left alone.
 * - To the pod by TPROXY: the accepted socket has the addresses that are on the wire, so that the guard finds
 *   it by them. From the pod by REDIRECT: that never meets the guard.
 * - No source address is exempt: an address is no proof of who sends.
 * - What the data plane sends to the application with the client's address as source arrives through lo; its
 *   connection is marked, and the application's answers are routed back to lo (answer-routing.ts).
 */
export const captureTable = "meltemi";

/** What this table counts. */
export const redirectionCounters = ["proxy_port", "proxy_port_loop", "unserved"] as const;

const ownPorts = `{ ${ports.outbound}, ${ports.inbound} }`;
const fromProxy = withMark("==", marks.proxy);

/**
 * The marks that keep connections going which the data plane carries already. The packet's own mark goes once it
 * has been seen: with `tcp_fwmark_accept` the application's socket would inherit it.
 */
const keepCarried = {
  beforeRouting: `iif "lo" ${fromProxy} ct mark set ct mark & ${maskBits} | ${marks.answered} meta mark set meta mark & ${maskBits}`,
  routeOut: `ct direction reply ct mark & ${markMask} == ${marks.answered} meta mark set ct mark`,
};

const when = (condition: boolean, ...rules: readonly string[]): readonly string[] => (condition ? rules : []);

function redirecting(settings: CaptureSettings): string[] {
  const { excludeInboundPorts, excludeOutboundPorts, excludeOutboundCidrs, bypassInbound } = settings;
  return [
    ...chain("before_routing", "filter hook prerouting priority mangle", [
      keepCarried.beforeRouting,
      'iif "lo" accept',
      `tcp dport ${ownPorts} ${firstSegment} ${drop("proxy_port")}`,
      `${withMark("==", marks.exempt)} accept`,
      `tcp dport ${ports.tunnel} accept`,
      ...when(excludeInboundPorts.length > 0, `tcp dport ${elements(excludeInboundPorts)} accept`),
      ...when(bypassInbound, "accept"),
      `${firstSegment} tproxy to :${ports.inbound} accept`,
      // Nobody listens there. Without this the application would get the connection.
      `${firstSegment} meta mark set meta mark & ${maskBits} | ${marks.unserved}`,
    ]),
    ...chain("deliver", "filter hook input priority filter", [
      `${withMark("==", marks.unserved)} ${firstSegment} ${counter("unserved")} reject with tcp reset`,
    ]),
    ...chain("route_out", "route hook output priority mangle", [
      `oif "lo" tcp dport ${ownPorts} ${firstSegment} ${withMark("!=", marks.proxy)} ${drop("proxy_port_loop")}`,
      'oif "lo" accept',
      keepCarried.routeOut,
    ]),
    ...chain("redirect_out", "nat hook output priority -100", [
      'oif "lo" accept',
      `${fromProxy} accept`,
      `${withMark("==", marks.exempt)} accept`,
      ...when(excludeOutboundPorts.length > 0, `tcp dport ${elements(excludeOutboundPorts)} accept`),
      // One rule each: networks in a set may not overlap.
      ...excludeOutboundCidrs.map((cidr) => `${cidr.includes(":") ? "ip6" : "ip"} daddr ${cidr} accept`),
      `${firstSegment} redirect to :${ports.outbound}`,
    ]),
  ];
}

/** The translation of carried connections lives as long as chains of type nat stand: this one is empty. */
function draining(): string[] {
  return [
    ...chain("before_routing", "filter hook prerouting priority mangle", [keepCarried.beforeRouting]),
    ...chain("route_out", "route hook output priority mangle", ['oif "lo" accept', keepCarried.routeOut]),
    ...chain("redirect_out", "nat hook output priority -100", []),
  ];
}

/** Input of `nft -f -`: one transaction that replaces whatever our table was. */
export function applyScript(settings: CaptureSettings, form: CaptureForm): string {
  const chains = form === "redirecting" ? redirecting(settings) : draining();
  return [
    ...absent(captureTable),
    `table inet ${captureTable} {`,
    ...declareCounters(redirectionCounters),
    ...chains,
    "}",
    "",
  ].join("\n");
}

/** Input of `nft -f -`: our table gone, also where it was not there. */
export const removeScript = `${absent(captureTable).join("\n")}\n`;
