import type { CaptureForm, CaptureSettings } from "../mode.js";
import { marks, markMask, ports } from "../marks.js";
import type { Family } from "../policy-routing.js";

/**
 * Redirection by iptables: chains of our own in `mangle` and `nat`, and one jump to each, for one address family.
 * The same as the nftables form (nftables/ruleset.ts), except that a first segment for a data plane that does not
 * listen is dropped instead of refused: TPROXY knows no other answer.
 */
const incoming = "MELTEMI_IN";
const outgoing = "MELTEMI_OUT";

export const tables = ["mangle", "nat"] as const;
export type Table = (typeof tables)[number];

export interface Jump {
  readonly table: Table;
  readonly from: string;
  readonly to: string;
}

/** The built-in chains that jump to ours: as their first rule, so that nobody's ACCEPT comes before. */
export const jumps: readonly Jump[] = [
  { table: "mangle", from: "PREROUTING", to: incoming },
  { table: "mangle", from: "OUTPUT", to: outgoing },
  { table: "nat", from: "OUTPUT", to: outgoing },
];

/** What a rule counts, as `iptables-save -c` shows it. */
export const countedBy = "meltemi:";

const syn = "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN";
const synTo = (port: number): string => `-p tcp -m tcp --dport ${port} --tcp-flags FIN,SYN,RST,ACK SYN`;
const marked = (mark: string): string => `-m mark --mark ${mark}/${markMask}`;
const drop = (reason: string): string => `-m comment --comment "${countedBy}${reason}" -j DROP`;
const ownPorts = [ports.outbound, ports.inbound];

/** The connection of what the data plane sends to the application is marked; the packet's own mark goes, as the application's socket may inherit it. */
const noteCarried = [
  `-i lo ${marked(marks.proxy)} -j CONNMARK --set-xmark ${marks.answered}/${markMask}`,
  `-i lo ${marked(marks.proxy)} -j MARK --set-xmark 0x0/${markMask}`,
  "-i lo -j RETURN",
];
const leaveLoopback = "-o lo -j RETURN";
const routeAnswers = `-m conntrack --ctdir REPLY -m connmark --mark ${marks.answered}/${markMask} -j CONNMARK --restore-mark --nfmask ${markMask} --ctmask ${markMask}`;

const when = (condition: boolean, ...rules: readonly string[]): readonly string[] => (condition ? rules : []);
const toPort = (port: number): string => `-p tcp -m tcp --dport ${port} -j RETURN`;

type Rules = Readonly<Record<Table, Readonly<Record<string, readonly string[]>>>>;

function redirecting(settings: CaptureSettings, family: Family): Rules {
  const refuseUdp = when(settings.udp === "refuse", `-p udp ${drop("udp_refused")}`);
  const cidrs = settings.excludeOutboundCidrs.filter((cidr) => cidr.includes(":") === (family === "6"));
  return {
    mangle: {
      [incoming]: [
        ...noteCarried,
        ...refuseUdp,
        ...ownPorts.map((port) => `${synTo(port)} ${drop("proxy_port")}`),
        `${marked(marks.exempt)} -j RETURN`,
        ...[ports.tunnel, ...settings.excludeInboundPorts].map(toPort),
        ...when(settings.bypassInbound, "-j RETURN"),
        `${syn} -j TPROXY --on-port ${ports.inbound} --tproxy-mark 0x0/0x0`,
      ],
      [outgoing]: [
        ...ownPorts.map(
          (port) =>
            `-o lo ${synTo(port)} -m mark ! --mark ${marks.proxy}/${markMask} ${drop("proxy_port_loop")}`,
        ),
        leaveLoopback,
        ...refuseUdp,
        routeAnswers,
      ],
    },
    nat: {
      [outgoing]: [
        leaveLoopback,
        `${marked(marks.proxy)} -j RETURN`,
        `${marked(marks.exempt)} -j RETURN`,
        ...settings.excludeOutboundPorts.map(toPort),
        ...cidrs.map((cidr) => `-d ${cidr} -j RETURN`),
        `${syn} -j REDIRECT --to-ports ${ports.outbound}`,
      ],
    },
  };
}

const draining: Rules = {
  mangle: { [incoming]: noteCarried, [outgoing]: [leaveLoopback, routeAnswers] },
  nat: { [outgoing]: [] },
};

/** The lines of each table, in a listing by `iptables-save`. */
const sectionsOf = (listing: string): ReadonlyMap<string, string> =>
  new Map(listing.split(/^\*/mu).map((section) => [section.slice(0, section.indexOf("\n")).trim(), section]));

/** Which jumps are there. */
function presentJumps(listing: string): readonly Jump[] {
  const sections = sectionsOf(listing);
  return jumps.filter(({ table, from, to }) =>
    (sections.get(table) ?? "").split("\n").some((line) => line.endsWith(`-A ${from} -j ${to}`)),
  );
}

const ownChains = (table: Table): readonly string[] => [
  ...new Set(jumps.filter((jump) => jump.table === table).map(({ to }) => to)),
];

/** Input of `iptables-restore --noflush`: each table in one step, and nothing in it but our chains and jumps. */
export function applyScript(
  settings: CaptureSettings,
  form: CaptureForm,
  family: Family,
  listing: string,
): string {
  const rules = form === "redirecting" ? redirecting(settings, family) : draining;
  const there = presentJumps(listing);
  return tables
    .flatMap((table) => [
      `*${table}`,
      // A chain that is declared is emptied.
      ...ownChains(table).map((chain) => `:${chain} - [0:0]`),
      ...Object.entries(rules[table]).flatMap(([chain, list]) => list.map((rule) => `-A ${chain} ${rule}`)),
      ...jumps
        .filter((jump) => jump.table === table && !there.includes(jump))
        .map(({ from, to }) => `-I ${from} 1 -j ${to}`),
      "COMMIT",
    ])
    .concat("")
    .join("\n");
}

/** Input of `iptables-restore --noflush` that takes out what is ours; empty where nothing is. */
export function removeScript(listing: string): string {
  const there = presentJumps(listing);
  const sections = sectionsOf(listing);
  return tables
    .flatMap((table) => {
      const found = ownChains(table).filter((chain) => sections.get(table)?.includes(`:${chain} `) ?? false);
      if (found.length === 0) return [];
      return [
        `*${table}`,
        ...there.filter((jump) => jump.table === table).map(({ from, to }) => `-D ${from} -j ${to}`),
        ...found.map((chain) => `:${chain} - [0:0]`),
        ...found.map((chain) => `-X ${chain}`),
        "COMMIT",
        "",
      ];
    })
    .join("\n");
}
