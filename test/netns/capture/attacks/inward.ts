/** Attempts of a neighbour on the link to reach into a captured pod past its data plane. */
import type { Place } from "../cases/case.js";
import { ports } from "../lab/world.js";
import type { Attack } from "./attack.js";

const neighbour = { from: "neighbour", guardOf: "server", stands: "guard" } as const;
const entry = { at: "entry", pod: "server" } as const;

/** Frames for the pod's own link address: nothing between the attacker and the pod looks at them. */
const frames = (place: Place, marker: string, from: string, to: string, shape: string): string[] => [
  "frames",
  ...["--through", "packet", "--shape", shape, "--marker", marker, "--attempts", "4"],
  ...["--from", from, "--to", to, "--next-hop", place.mac("server")],
];

const loopback = (place: Place): string => (place.family === 4 ? "127.0.0.1" : "[::1]");
/** Several times: the data plane ends such a connection at once, sometimes before it is written to. */
const connectTo = (port: number) => (place: Place, marker: string) => [
  ["connect", "--to", place.at("server", port), "--marker", marker, "--attempts", "8", "--timeout-ms", "200"],
];

export const inward: readonly Attack[] = [
  {
    ...neighbour,
    name: "from the link: the pod's own address as source",
    watched: entry,
    tools: (place, marker) =>
      ["segment", "syn"].map((shape) =>
        frames(place, marker, place.at("server", 40_000), place.at("server", ports.echo), shape),
      ),
    counted: ["spoofed"],
  },
  {
    ...neighbour,
    name: "from the link: a loopback address as source",
    watched: entry,
    tools: (place, marker) => [
      frames(place, marker, `${loopback(place)}:40000`, place.at("server", ports.echo), "segment"),
    ],
    counted: ["spoofed"],
  },
  {
    ...neighbour,
    name: "from the link: a loopback address as destination",
    watched: entry,
    tools: (place, marker) => [
      frames(place, marker, place.at("neighbour", 40_000), `${loopback(place)}:${ports.echo}`, "segment"),
    ],
    counted: ["not_for_pod", "spoofed"],
  },
  {
    ...neighbour,
    name: "from the link: a segment for no connection, which a packet socket in the pod would read",
    watched: entry,
    tools: (place, marker) => [
      frames(place, marker, place.at("neighbour", 40_000), place.at("server", 4), "segment"),
    ],
    counted: ["plaintext_in"],
  },
  {
    ...neighbour,
    name: "from the link: fragments",
    watched: entry,
    tools: (place, marker) =>
      ["fragments", "lone-fragment"].map((shape) =>
        frames(place, marker, place.at("neighbour", 40_000), place.at("server", ports.echo), shape),
      ),
    counted: ["malformed", "plaintext_in"],
  },
  ...[15001, 15006].map((port) => ({
    ...neighbour,
    name: `a neighbour connects to ${port}`,
    watched: entry,
    stands: "guard and redirection" as const,
    tools: connectTo(port),
    counted: ["proxy_port", "proxy_port_in"],
  })),
];
