import { flags } from "../lab/flags.js";
import { eventually } from "../lab/command.js";
import { catalogPort, catalogVip } from "../manifests.js";
import type { HttpSummary, World } from "../world.js";
import { errorsOf } from "./balance.js";
import type { Row } from "./row.js";

interface CaStatus {
  readonly phase: string;
  readonly roots: readonly { readonly serial: string }[];
  readonly issuing: { readonly serial: string };
}

interface CertificateRow {
  readonly node: string;
  readonly identity: string;
  readonly serial: string;
  readonly root: string;
}

const status = (world: World): Promise<CaStatus> => world.cli<CaStatus>("ca", "status");

/** Waits until a rotation that was begun is over. */
async function settled(world: World, done: (now: CaStatus) => boolean): Promise<CaStatus> {
  return eventually("the rotation to finish", async () => {
    const now = await status(world);
    return now.phase === "stable" && done(now) ? now : undefined;
  });
}

export const rotation: Row = {
  name: "certificates and the root rotate under load",
  expected: "no failed request; every certificate new twice; the old root gone",
  noticed: "rotation",
  attempt: async (world, broken) => {
    const before = { ca: await status(world), leaves: await leaves(world) };
    const load = world.continuous<HttpSummary>("frontend", [
      "http",
      ...flags({
        url: `http://${catalogVip}:${catalogPort}/`,
        intervalMs: 5,
        keepalive: "false",
        untilSignal: true,
      }),
    ]);
    await world.cli("ca", "rotate", "issuing");
    const issuing = await settled(world, (now) => now.issuing.serial !== before.ca.issuing.serial);
    const renewed = await leaves(world);
    await world.cli("ca", "rotate", "root");
    // Without waiting for the nodes, each phase leaves some of them behind: certificates that others do not trust.
    if (broken) await hurry(world);
    const root = await settled(world, (now) =>
      now.roots.every(({ serial }) => before.ca.roots.every((old) => old.serial !== serial)),
    );
    const rotated = await leaves(world);
    const summary = await load.stop();
    const fresh = (now: Set<string>, old: Set<string>): boolean =>
      now.size >= old.size && [...now].every((serial) => !old.has(serial));
    const twice = fresh(renewed, before.leaves) && fresh(rotated, renewed);
    return {
      seen:
        `${summary.ok} of ${summary.requests} requests answered${errorsOf(summary)}; certificates ${twice ? "new twice" : "not all new"}; ` +
        `issuing key ${issuing.issuing.serial === before.ca.issuing.serial ? "the same" : "new"}, ${root.roots.length} root, new`,
      ok: summary.requests > 0 && summary.ok === summary.requests && twice,
    };
  },
};

async function leaves(world: World): Promise<Set<string>> {
  const rows = await world.cli<CertificateRow[]>("certificates");
  return new Set(rows.map((row) => row.serial));
}

/** Pushes a root rotation through all its phases at once. */
async function hurry(world: World): Promise<void> {
  for (;;) {
    if ((await status(world)).phase === "stable") return;
    await world.cli("ca", "rotate", "root", "--advance").catch(() => undefined);
  }
}
