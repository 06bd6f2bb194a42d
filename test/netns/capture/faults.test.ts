/**
 * The fault matrix: traffic that policy wants encrypted is attempted throughout each fault, over IPv4 and IPv6, and a
 * capture on the link between the nodes counts what of it is readable. Service returns by itself; how soon is
 * reported. Every fault in the default mode; those that touch what the others rest on in each of them.
 */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { run } from "../../../demo/lab/command.js";
import { eventually } from "../../helpers/eventually.js";
import type { Family } from "./cases/case.js";
import type { Fault, FaultWorld } from "./faults/fault.js";
import { everythingFlushed, kernelState, links } from "./faults/kernel-state.js";
import { kills, processes } from "./faults/processes.js";
import { surroundings } from "./faults/surroundings.js";
import { inForce, isLinked, shape, type Mode } from "./lab/kernel.js";
import { Lab } from "./lab/lab.js";
import { writeResults } from "./lab/results.js";
import { Traffic, type Endured } from "./lab/traffic.js";
import { placeOf, ports, serve } from "./lab/world.js";

const patienceMs = 60_000;
const families: readonly Family[] = [4, 6];
const worlds: readonly { mode: Mode; prefix: string; faults: readonly Fault[] }[] = [
  {
    mode: "bpf",
    prefix: "fm",
    faults: [...processes, ...kernelState, everythingFlushed("bpf"), ...links, ...surroundings],
  },
  { mode: "nftables", prefix: "fn", faults: [...kills, everythingFlushed("nftables")] },
  { mode: "iptables", prefix: "fi", faults: [...kills, everythingFlushed("iptables")] },
];
const mtls = `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default, namespace: shop }
spec: { mtls: { mode: STRICT } }
`;
const pods = ["client", "server"] as const;

/** A line of the table, as scripts/threat-tables.mjs reads it. */
interface Outcome {
  readonly fault: string;
  readonly mode: Mode;
  readonly attempted: number;
  readonly ok: number;
  readonly plaintextBytes: number;
  readonly serviceAfterMs?: number;
  readonly note?: string;
}
const outcomes: Outcome[] = [];

interface Seen extends Endured {
  readonly plaintextBytes: number;
  /** Those of the families' markers that were seen. */
  readonly readable: readonly string[];
}

/** Traffic in both directions and both families while something happens, and what of it a capture could read. */
async function under(
  lab: Lab,
  marker: string,
  happens: (traffic: readonly Traffic[]) => Promise<number>,
): Promise<Seen> {
  const markers = families.map((family) => `${marker}${family}-`);
  const capture = await lab.capture(undefined, lab.node("n2").wire, ...markers);
  const traffic = families.flatMap((family, index) =>
    [
      ["client", "server"],
      ["server", "client"],
    ].map(([from = "", to = ""]) => {
      const url = `http://${placeOf(lab, "bpf", family).at(to, ports.http)}/echo`;
      return new Traffic(lab.pod(from).netns, url, markers[index] ?? marker);
    }),
  );
  try {
    const struckAtMs = await happens(traffic);
    const ends = await Promise.all(traffic.map((one) => one.stop(struckAtMs)));
    const { drops, marker_bytes: plaintextBytes, markers_found: readable } = await capture.stop();
    expect(drops, "frames that the capture missed").toBe(0);
    return {
      plaintextBytes,
      readable,
      attempted: ends.reduce((sum, { attempted }) => sum + attempted, 0),
      ok: ends.reduce((sum, { ok }) => sum + ok, 0),
      longestOutageMs: Math.max(...ends.map(({ longestOutageMs }) => longestOutageMs)),
    };
  } finally {
    for (const one of traffic) one.kill("SIGKILL");
  }
}

const served = async (traffic: readonly Traffic[], count: number, afterMs: number): Promise<void> => {
  await Promise.all(traffic.map((one) => one.successes(count, afterMs, patienceMs)));
};

describe.each(worlds)("redirection by $mode", ({ mode, prefix, faults }) => {
  const lab = new Lab(
    prefix,
    [
      { name: "server", node: "n1", host: 10 },
      { name: "client", node: "n2", host: 10 },
    ],
    ["--redirect-mode", mode],
  );
  let intact: ReadonlyMap<string, string>;

  const shapes = async (): Promise<ReadonlyMap<string, string>> =>
    new Map(await Promise.all(pods.map(async (name) => [name, await shape(lab.pod(name))] as const)));

  beforeAll(async () => {
    await lab.up();
    // A disk of its own, small enough to be filled.
    await run("mkdir", ["-p", lab.state]);
    await run("mount", ["-t", "tmpfs", "-o", "size=128m,mode=700", "small", lab.state]);
    lab.apply("mtls.yaml", mtls);
    await serve(lab, ...pods);
    lab.start();
    await lab.ready();
    await eventually(
      "the guards' links",
      async () => (await Promise.all(pods.map((name) => isLinked(lab.pod(name))))).every(Boolean),
      30_000,
    );
    intact = await shapes();
  });
  afterAll(async () => {
    await lab.end("SIGTERM");
    await run("umount", [lab.state]);
    await lab.down();
  });

  /** Waits for it; where it does not come, what differs is the failure. */
  async function comes(what: string, whether: () => Promise<boolean> | boolean): Promise<void> {
    try {
      await eventually(what, whether, patienceMs);
    } catch (error) {
      expect(Object.fromEntries(await shapes())).toEqual(Object.fromEntries(intact));
      throw new Error(`${what} did not come\n${lab.said()}`, { cause: error });
    }
  }

  test("with the mesh off the same capture reads the same traffic", async () => {
    await Promise.all(pods.map((name) => lab.unenrol(name)));
    try {
      const seen = await under(lab, `f4ult-without-${prefix}-`, async (traffic) => {
        await served(traffic, 10, 0);
        return Date.now();
      });
      expect(seen.plaintextBytes).toBeGreaterThan(1_000);
      expect(seen.readable).toHaveLength(families.length);
      const { attempted, ok, plaintextBytes } = seen;
      outcomes.push({ fault: "none, and the mesh off", mode, attempted, ok, plaintextBytes });
    } finally {
      await Promise.all(pods.map((name) => lab.enrol(name)));
    }
    await comes("the pods as they were", async () => {
      const now = await shapes();
      return pods.every((name) => now.get(name) === intact.get(name));
    });
  });

  test.each(faults)("$name", async (fault) => {
    await lab.ready();
    expect((await inForce(lab.pod("client"))).modes).toEqual([mode]);
    const world: FaultWorld = { lab, intact, before: lab.processes() };
    const seen = await under(lab, `f4ult-${prefix}-${faults.indexOf(fault)}-`, async (traffic) => {
      await served(traffic, 5, 0);
      const struckAtMs = Date.now();
      try {
        await fault.strike(world);
        await comes("the repair", () => fault.repaired(world));
        await served(traffic, 10, Date.now());
      } finally {
        await fault.mend?.(world);
      }
      return struckAtMs;
    });
    outcomes.push({
      fault: fault.name,
      mode,
      attempted: seen.attempted,
      ok: seen.ok,
      plaintextBytes: seen.plaintextBytes,
      serviceAfterMs: seen.longestOutageMs,
      note: fault.note ?? "",
    });
    expect(seen.attempted).toBeGreaterThan(20);
    expect(seen.plaintextBytes, "bytes of the marker on the link").toBe(0);
  });
});

test("every row has its outcome", () => {
  expect(outcomes).toHaveLength(worlds.reduce((sum, { faults }) => sum + faults.length + 1, 0));
  writeResults("faults", outcomes);
});
