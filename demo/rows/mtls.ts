import { flags } from "../lab/flags.js";
import { eventually } from "../lab/command.js";
import { ledgerPort, mtls } from "../manifests.js";
import type { World } from "../world.js";
import type { Row } from "./row.js";

/** Whether a plaintext caller from outside the mesh is let in. */
async function outsiderGetsIn(world: World): Promise<boolean> {
  const target = `${world.topology.pod("ledger").ip}:${ledgerPort}`;
  const answer = await world.client<{ ok: boolean }>("outsider", [
    "tcp",
    ...flags({ connect: target, sendBytes: 100, halfClose: true }),
  ]);
  return answer.ok;
}

export const plaintextCallers: Row = {
  name: "STRICT refuses plaintext, PERMISSIVE lets it in",
  expected:
    "outsider -> ledger: in under PERMISSIVE, refused under STRICT (record: strict_plaintext_refused), in again",
  attempt: async (world) => {
    const settle = (expected: boolean): Promise<boolean> =>
      eventually(`the outsider to be ${expected ? "let in" : "refused"}`, async () =>
        (await outsiderGetsIn(world)) === expected ? true : undefined,
      );
    const open = await outsiderGetsIn(world);
    await world.apply("mtls.yaml", mtls("STRICT"));
    const before = (await world.records("n2")).length;
    await settle(false);
    const record = (await world.records("n2"))
      .slice(before)
      .find((each) => each["reason"] === "strict_plaintext_refused");
    await world.apply("mtls.yaml", mtls("PERMISSIVE"));
    await settle(true);
    return {
      seen: `${open ? "in" : "refused"}, then refused (record: ${record?.["reason"] ?? "none"}), then in`,
      ok: open && record !== undefined,
    };
  },
};
