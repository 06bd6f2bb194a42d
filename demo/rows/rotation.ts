import { flags } from "../lab/flags.js";
import { eventually } from "../lab/command.js";
import { catalogPort } from "../manifests.js";
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
        url: `http://${world.topology.pod("catalog-2").ip}:${catalogPort}/`,
        intervalMs: 5,
        keepalive: "false",
        untilSignal: true,
      }),
    ]);
    await world.cli("ca", "rotate", "issuing");
    const issuing = await settled(world, (now) => now.issuing.serial !== before.ca.issuing.serial);
    const renewed = await leaves(world);
    await world.cli("ca", "rotate", "root");
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

/**
 * Rotates as if nobody had to be waited for: while one node's agent stands still, the rotation is pushed
 * through all its phases, so that this node's certificates are of a root that the other no longer trusts.
 */
async function hurry(world: World): Promise<void> {
  await world.signal("node-n2", "SIGSTOP");
  try {
    await eventually("the rotation to be pushed through", async () => {
      if ((await status(world)).phase === "stable") return true;
      await world.cli("ca", "rotate", "root", "--advance").catch(() => undefined);
      return undefined;
    });
    await eventually("a request to fail", async () => {
      const url = `http://${world.topology.pod("catalog-2").ip}:${catalogPort}/`;
      const answer = await world.client<HttpSummary>("frontend", [
        "http",
        ...flags({ url, requests: 1, keepalive: "false" }),
      ]);
      return answer.ok === 0 ? true : undefined;
    });
  } finally {
    await world.signal("node-n2", "SIGCONT");
  }
}
