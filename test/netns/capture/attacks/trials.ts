/**
 * Attempts on what is not the guard's to hold: the data plane's listeners, its identity, its policy. Each is
 * measured twice, against the mesh and where that one thing is absent.
 */
import { expect } from "vitest";
import type { Place } from "../cases/case.js";
import { attack, containerCapabilities, get, type Attempts } from "../lab/kit.js";
import { ports } from "../lab/world.js";
import { eventually } from "../../../helpers/eventually.js";

export interface Measured {
  readonly attempted: number;
  /** In the trial's unit. */
  readonly cameThrough: number;
}

export interface Trial {
  readonly name: string;
  readonly from: string;
  /** What stops it, in the table's words. */
  readonly stoppedBy: string;
  readonly unit: "bytes of the marker" | "listeners" | "bytes echoed";
  /** Against the mesh as it is: nothing may come through. */
  readonly tried: (place: Place, marker: string) => Promise<Measured>;
  /** Without what stops it: something must. */
  readonly control: (place: Place, marker: string) => Promise<Measured>;
}

async function as(place: Place, pod: string, tools: readonly (readonly string[])[]): Promise<Attempts[]> {
  const reports: Attempts[] = [];
  for (const tool of tools) {
    const report = await attack(place.pod(pod).netns, tool);
    expect(report.capabilities).toBe(containerCapabilities.effective);
    reports.push(report);
  }
  return reports;
}

const sum = (reports: readonly Attempts[], field: "attempted" | "succeeded" | "echoed_bytes"): number =>
  reports.reduce((total, report) => total + report[field], 0);

const connect = (to: string, marker: string, ...more: readonly string[]): string[] => [
  "connect",
  ...["--to", to, "--marker", marker, "--timeout-ms", "400"],
  ...more,
];

/** Marker bytes that reach applications of the pod `server`, while something is tried. */
async function reachesApplication(
  place: Place,
  marker: string,
  trial: () => Promise<Attempts[]>,
): Promise<Measured> {
  const capture = await place.lab.capture(place.pod("server").netns, "lo", marker);
  const reports = await trial();
  const { drops, marker_bytes: cameThrough } = await capture.stop();
  expect(drops).toBe(0);
  return { attempted: sum(reports, "attempted"), cameThrough };
}

/** Every address under which the pod's listeners could be met, or one beside them be hidden. */
const addresses = (place: Place): string[] =>
  place.family === 4
    ? ["0.0.0.0", "127.0.0.1", place.ip("attacker"), place.ip("client")]
    : ["[::]", "[::1]", `[${place.ip("attacker")}]`, `[${place.ip("client")}]`];

const dataPlanePorts = [15001, 15006, 15008];

const join: Trial = {
  name: "joining or shadowing the data plane's listeners (SO_REUSEPORT, other addresses, SO_BINDTODEVICE, IP_TRANSPARENT)",
  from: "attacker",
  stoppedBy: "kernel: the listeners hold every address, without SO_REUSEPORT",
  unit: "listeners",
  tried: async (place) => {
    const wanted = dataPlanePorts.flatMap((port) => addresses(place).map((address) => `${address}:${port}`));
    const all = wanted.flatMap((address) => ["--listen", address]);
    const ways = [
      [],
      ["--reuse-port"],
      ["--transparent"],
      ["--device", "eth0"],
      ["--device", "lo", "--transparent"],
    ];
    const reports = await as(
      place,
      "attacker",
      ways.map((way) => ["listen", ...way, ...all]),
    );
    return { attempted: sum(reports, "attempted"), cameThrough: sum(reports, "succeeded") };
  },
  control: async (place) => {
    const own = ["--reuse-port", "--listen", `${addresses(place)[0] ?? ""}:15009`];
    const first = await place.lab.kit(place.pod("attacker").netns, "attack", "listen", "--hold", ...own);
    const reports = await as(place, "attacker", [["listen", ...own]]);
    first.kill();
    return { attempted: sum(reports, "attempted"), cameThrough: sum(reports, "succeeded") };
  },
};

const inside: Trial = {
  name: "connecting to 15001, 15006 and 15008 from inside the pod",
  from: "attacker",
  stoppedBy: "data plane and redirection: a connection to the data plane's own ports is a loop",
  unit: "bytes echoed",
  tried: async (place, marker) => {
    const loopback = place.family === 4 ? "127.0.0.1" : "[::1]";
    const reports = await as(
      place,
      "attacker",
      dataPlanePorts.flatMap((port) => [
        connect(`${loopback}:${port}`, marker),
        connect(place.at("attacker", port), marker),
        connect(place.at("attacker", port), marker, "--mark", "0x539"),
      ]),
    );
    return { attempted: sum(reports, "attempted"), cameThrough: sum(reports, "echoed_bytes") };
  },
  control: async (place, marker) => {
    const reports = await as(place, "squatter", [connect(place.at("squatter", ports.echo), marker)]);
    return { attempted: sum(reports, "attempted"), cameThrough: sum(reports, "echoed_bytes") };
  },
};

const tunnelPort: Trial = {
  name: "plaintext from a neighbour to 15008",
  from: "neighbour",
  stoppedBy: "data plane: mutual TLS",
  unit: "bytes of the marker",
  tried: (place, marker) =>
    reachesApplication(place, marker, () =>
      as(place, "neighbour", [connect(place.at("server", 15008), marker)]),
    ),
  control: (place, marker) =>
    reachesApplication(place, marker, () =>
      as(place, "neighbour", [connect(place.at("server", ports.echo), marker)]),
    ),
};

const policy = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: only-client, namespace: shop }
spec:
  selector: { matchLabels: { app: server } }
  rules: [{ from: [{ source: { principals: [cluster.local/ns/shop/sa/client] } }] }]
`;

async function whilePolicyStands<T>(place: Place, action: () => Promise<T>): Promise<T> {
  const url = `http://${place.at("server", ports.http)}/`;
  const asked = async (): Promise<boolean> =>
    (await get(place.pod("attacker").netns, url, "--keepalive", "false")).status === 200;
  place.lab.apply("only-client.yaml", policy);
  await eventually("the policy to stand", async () => !(await asked()));
  try {
    return await action();
  } finally {
    place.lab.withdraw("only-client.yaml");
    await eventually("the policy to be gone", asked);
  }
}

const account: Trial = {
  name: "passing for another pod's service account (own connection, its address by IP_TRANSPARENT, the data plane's mark)",
  from: "attacker",
  stoppedBy: "policy: the certificate decides",
  unit: "bytes of the marker",
  tried: (place, marker) =>
    whilePolicyStands(place, () =>
      reachesApplication(place, marker, () => {
        const to = place.at("server", ports.echo);
        return as(place, "attacker", [
          connect(to, marker),
          connect(to, marker, "--mark", "0x539"),
          connect(to, marker, "--transparent", "--from", place.ip("client")),
          connect(to, marker, "--transparent", "--mark", "0x539", "--from", place.ip("client")),
        ]);
      }),
    ),
  control: (place, marker) =>
    whilePolicyStands(place, () =>
      reachesApplication(place, marker, () =>
        as(place, "client", [connect(place.at("server", ports.echo), marker)]),
      ),
    ),
};

const squat: Trial = {
  name: "binding 15008 before the data plane",
  from: "squatter",
  stoppedBy: "agent: the pod is not enrolled, and says why; its traffic is stopped",
  unit: "bytes of the marker",
  tried: async (place, marker) => {
    const { lab } = place;
    const taken = ["0.0.0.0:15008", "[::]:15008"].flatMap((address) => ["--listen", address]);
    const thief = await lab.kit(place.pod("squatter").netns, "attack", "listen", "--hold", ...taken);
    lab.writePod("squatter", { enrolled: true });
    await eventually(
      "the pod to say why",
      async () => /15008/.test((await lab.podStatus("squatter"))?.reason ?? ""),
      30_000,
    );
    try {
      return await aroundSquatter(place, marker);
    } finally {
      thief.kill();
      await lab.podReaches("squatter", "enrolled");
      await lab.unenrol("squatter");
    }
  },
  control: aroundSquatter,
};

/** The squatter sends, and is sent to from outside of the mesh. */
async function aroundSquatter(place: Place, marker: string): Promise<Measured> {
  const capture = await place.lab.capture(undefined, place.lab.node("n2").wire, marker);
  const reports = [
    ...(await as(place, "squatter", [connect(place.at("neighbour", ports.echo), marker)])),
    ...(await as(place, "neighbour", [connect(place.at("squatter", ports.echo), marker)])),
  ];
  const { drops, marker_bytes: cameThrough } = await capture.stop();
  expect(drops).toBe(0);
  return { attempted: sum(reports, "attempted"), cameThrough };
}

export const trials: readonly Trial[] = [join, squat, inside, tunnelPort, account];
