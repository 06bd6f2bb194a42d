/** Attempts of a captured pod to send plaintext to a pod that is in the mesh. */
import type { Place } from "../cases/case.js";
import { ports } from "../lab/world.js";
import type { Attack } from "./attack.js";

const sender = { from: "attacker", guardOf: "attacker", watched: { at: "wire" }, stands: "guard" } as const;

const to = (place: Place): string => place.at("server", ports.echo);

const connect = (place: Place, marker: string, ...more: readonly string[]): string[] => [
  "connect",
  ...["--to", to(place), "--marker", marker, "--attempts", "2", "--timeout-ms", "400"],
  ...more,
];

/**
 * @param port whence: each row has its own, because what the kernel remembers of one row's packets (connections,
 * halves of a packet) would else decide what becomes of another's at the same time
 */
const through = (way: "raw" | "packet" | "packet-bypass", shape: string, port: number, nextHop = "n2") => {
  return (place: Place, marker: string): string[][] => [
    [
      "frames",
      ...["--through", way, "--shape", shape, "--marker", marker, "--attempts", "4"],
      ...["--from", place.at("attacker", port), "--to", to(place)],
      ...(way === "raw" ? [] : ["--next-hop", place.mac(nextHop)]),
    ],
  ];
};

const octets = (address: string): string =>
  address
    .split(".")
    .map((part) => Number(part).toString(16).padStart(2, "0"))
    .join("");

const words: Readonly<Record<string, string>> = {
  segment: "a segment",
  syn: "a SYN with data",
  fragments: "fragments",
  "tiny-fragments": "fragments that split the TCP header",
  "lone-fragment": "a later fragment alone",
  options: "IPv4 options, IPv6 extension headers",
};

export const outward: readonly Attack[] = [
  ...["0x539", "0x53a"].map((mark) => ({
    ...sender,
    name: `SO_MARK ${mark} on a connection`,
    tools: (place: Place, marker: string) => [connect(place, marker, "--mark", mark)],
    counted: ["unregistered_socket"],
  })),
  {
    ...sender,
    name: "SO_BINDTODEVICE, past the routes through loopback",
    tools: (place, marker) => [connect(place, marker, "--device", "eth0")],
    counted: ["unregistered_socket"],
  },
  {
    ...sender,
    name: "IP_TRANSPARENT and SO_MARK with another pod's address as source",
    families: [4],
    // The handshake cannot end, so what is looked for is the pair of addresses in the header.
    marker: (place) => `hex:${octets(place.ip("client"))}${octets(place.ip("server"))}`,
    tools: (place, marker) => [
      connect(place, marker, "--transparent", "--mark", "0x539", "--from", place.ip("client")),
    ],
    counted: ["unregistered_socket"],
  },
  ...["segment", "fragments", "tiny-fragments", "lone-fragment", "options"].map((shape, index) => ({
    ...sender,
    name: `raw socket: ${words[shape] ?? shape}`,
    tools: through("raw", shape, 40_000 + index),
    counted: ["raw_socket"],
  })),
  ...["segment", "syn", "fragments", "lone-fragment", "options"].map((shape, index) => ({
    ...sender,
    name: `packet socket: ${words[shape] ?? shape}`,
    tools: through("packet", shape, 40_010 + index),
    counted: ["raw_socket", "malformed"],
  })),
  {
    ...sender,
    name: "packet socket: a VLAN tag before the packet, to a pod on the same link",
    // A node's bridge does not route what is tagged; a neighbour that colludes reads it.
    watched: { at: "entry", pod: "squatter" },
    tools: through("packet", "vlan", 40_020, "squatter"),
    counted: ["raw_socket", "malformed"],
  },
  {
    ...sender,
    name: "packet socket with PACKET_QDISC_BYPASS: a segment",
    tools: through("packet-bypass", "segment", 40_021),
    counted: ["raw_socket"],
  },
];
