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
    await eventually("the outsider to be let in", () => outsiderGetsIn(world));
    await world.apply("mtls.yaml", mtls("STRICT"));
    const before = (await world.records("n2")).length;
    // An attempt under way when the rule changes is cut off by it, with another reason: tried until one is refused.
    const record = await eventually("the outsider's refusal and its record", async () => {
      if (await outsiderGetsIn(world)) return undefined;
      const records = (await world.records("n2")).slice(before);
      return records.find((each) => each["reason"] === "strict_plaintext_refused");
    });
    await world.apply("mtls.yaml", mtls("PERMISSIVE"));
    await eventually("the outsider to be let in again", () => outsiderGetsIn(world));
    return {
      seen: `in, then refused (record: ${String(record["reason"])}), then in`,
      ok: true,
    };
  },
};
