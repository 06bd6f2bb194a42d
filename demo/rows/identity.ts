import { flags } from "../lab/flags.js";
import { eventually } from "../lab/command.js";
import { ledgerPort, ledgerVip } from "../manifests.js";
import type { Row } from "./row.js";

const spiffe = (account: string): string => `spiffe://cluster.local/ns/shop/sa/${account}`;

export const identity: Row = {
  name: "each end knows who the other is",
  expected: "both nodes record courier -> ledger by their own identities",
  noticed: "identity",
  attempt: async (world, broken) => {
    if (broken) {
      // The courier's namespace is handed to the mesh as another account's: a stand-in for a wrong pairing.
      await world.reenrol("courier", { serviceAccount: "frontend" });
    }
    const marks = { n1: (await world.records("n1")).length, n2: (await world.records("n2")).length };
    await world.client("courier", [
      "tcp",
      ...flags({ connect: `${ledgerVip}:${ledgerPort}`, sendBytes: 100, halfClose: true }),
    ]);
    const found = async (node: "n1" | "n2", direction: string): Promise<string> => {
      const record = await eventually(`the ${direction} record on ${node}`, async () =>
        (await world.records(node))
          .slice(marks[node])
          .find((each) => each["src_workload"] === "courier" && each["direction"] === direction),
      );
      return `${record["src_identity"] ?? "–"} -> ${record["dst_identity"] ?? "–"}`;
    };
    const seen = [await found("n1", "outbound"), await found("n2", "inbound")];
    if (broken) await world.reenrol("courier", {});
    const expected = `${spiffe("courier")} -> ${spiffe("ledger")}`;
    return { seen: [...new Set(seen)].join("; "), ok: seen.every((pair) => pair === expected) };
  },
};
