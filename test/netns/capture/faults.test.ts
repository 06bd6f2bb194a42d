/**
 * The fault matrix: traffic that policy wants encrypted is attempted throughout each fault, and a capture on
 * the link between the nodes counts what of it is readable. Service returns by itself; how soon is reported.
 */
import { afterAll, beforeAll, expect, test } from "vitest";
import { run } from "../../../demo/lab/command.js";
import { eventually } from "../../helpers/eventually.js";
import type { Fault, FaultWorld } from "./faults/fault.js";
import { kernelState, links } from "./faults/kernel-state.js";
import { processes } from "./faults/processes.js";
import { surroundings } from "./faults/surroundings.js";
import { inForce, shape } from "./lab/kernel.js";
import { Lab } from "./lab/lab.js";
import { writeResults } from "./lab/results.js";
import { Traffic, type Endured } from "./lab/traffic.js";
import { placeOf, ports, serve } from "./lab/world.js";

const patienceMs = 60_000;
const faults: readonly Fault[] = [...processes, ...kernelState, ...links, ...surroundings];
const mtls = `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default, namespace: shop }
spec: { mtls: { mode: STRICT } }
`;

const lab = new Lab("fm", [
  { name: "server", node: "n1", host: 10 },
  { name: "client", node: "n2", host: 10 },
]);
let intact: ReadonlyMap<string, string>;

/** A line of the table, as scripts/threat-tables.mjs reads it. */
interface Outcome {
  readonly fault: string;
  readonly attempted: number;
  readonly ok: number;
  readonly plaintextBytes: number;
  readonly serviceAfterMs: number;
  readonly note: string;
}
const outcomes: Outcome[] = [];
let withoutMesh: { attempted: number; plaintextBytes: number } | undefined;

beforeAll(async () => {
  await lab.up();
  // A disk of its own, small enough to be filled.
  await run("mkdir", ["-p", lab.state]);
  await run("mount", ["-t", "tmpfs", "-o", "size=128m,mode=700", "small", lab.state]);
  lab.apply("mtls.yaml", mtls);
  await serve(lab, "server", "client");
  lab.start();
  await lab.ready();
  intact = new Map(
    await Promise.all(["client", "server"].map(async (name) => [name, await shape(lab.pod(name))] as const)),
  );
});
afterAll(async () => {
  await lab.end("SIGTERM");
  await run("umount", [lab.state]);
  await lab.down();
});

interface Seen extends Endured {
  readonly plaintextBytes: number;
}

/** Traffic in both directions while something happens, and what of it a capture could read. */
async function under(
  marker: string,
  happens: (traffic: readonly Traffic[]) => Promise<number>,
): Promise<Seen> {
  const place = placeOf(lab, "bpf", 4);
  const capture = await lab.capture(undefined, lab.node("n2").wire, marker);
  const traffic = [
    ["client", "server"],
    ["server", "client"],
  ].map(
    ([from = "", to = ""]) =>
      new Traffic(lab.pod(from).netns, `http://${place.at(to, ports.http)}/echo`, marker),
  );
  try {
    const struckAtMs = await happens(traffic);
    const ends = await Promise.all(traffic.map((one) => one.stop(struckAtMs)));
    const { drops, marker_bytes: plaintextBytes } = await capture.stop();
    expect(drops, "frames that the capture missed").toBe(0);
    return {
      plaintextBytes,
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

test("with the mesh off the same capture reads the same traffic", async () => {
  await Promise.all(["client", "server"].map((name) => lab.unenrol(name)));
  const seen = await under("f4ult-without-", async (traffic) => {
    await served(traffic, 10, 0);
    return Date.now();
  });
  expect(seen.plaintextBytes).toBeGreaterThan(1_000);
  withoutMesh = seen;
  await Promise.all(["client", "server"].map((name) => lab.enrol(name)));
  await eventually(
    "the pods as they were",
    async () => (await shape(lab.pod("client"))) === intact.get("client"),
  );
});

/** Waits for it; where it does not come, what differs is the failure. */
async function repair(fault: Fault, world: FaultWorld): Promise<void> {
  try {
    await eventually("the repair", () => fault.repaired(world), patienceMs);
  } catch (error) {
    for (const [name, form] of intact) expect(await shape(lab.pod(name)), name).toBe(form);
    throw new Error(`not repaired\n${lab.said()}`, { cause: error });
  }
}

test.each(faults)("$name", async (fault) => {
  await lab.ready();
  expect((await inForce(lab.pod("client"))).modes).toHaveLength(1);
  const world: FaultWorld = { lab, intact, before: lab.processes() };
  const seen = await under(`f4ult-${faults.indexOf(fault)}-`, async (traffic) => {
    await served(traffic, 5, 0);
    const struckAtMs = Date.now();
    try {
      await fault.strike(world);
      await repair(fault, world);
      await served(traffic, 10, Date.now());
    } finally {
      await fault.mend?.(world);
    }
    return struckAtMs;
  });
  outcomes.push({
    fault: fault.name,
    attempted: seen.attempted,
    ok: seen.ok,
    plaintextBytes: seen.plaintextBytes,
    serviceAfterMs: seen.longestOutageMs,
    note: fault.note ?? "",
  });
  expect(seen.attempted).toBeGreaterThan(20);
  expect(seen.plaintextBytes, "bytes of the marker on the link").toBe(0);
});

test("every row has its outcome", () => {
  expect(outcomes).toHaveLength(faults.length);
  writeResults("faults", [{ fault: "none, and the mesh off", ...withoutMesh }, ...outcomes]);
});
