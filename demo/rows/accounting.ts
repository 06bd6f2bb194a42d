import { flags } from "../lab/flags.js";
import { eventually } from "../lab/command.js";
import { ledgerPort, ledgerVip } from "../manifests.js";
import type { World } from "../world.js";
import type { Row } from "./row.js";

const connections = 20;
const bytes = 10_000;

/** The sum of one metric's samples on a node whose labels include all of the given ones. */
async function metric(
  world: World,
  node: string,
  name: string,
  labels: Readonly<Record<string, string>>,
): Promise<number> {
  const text = await world.metrics(node);
  return text
    .split("\n")
    .filter(
      (line) =>
        line.startsWith(`${name}{`) &&
        Object.entries(labels).every(([key, value]) => line.includes(`${key}="${value}"`)),
    )
    .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" ") + 1)), 0);
}

async function totals(world: World): Promise<{ opened: number; received: number; sent: number }> {
  const labels = { reporter: "destination", source_workload: "courier", destination_workload: "ledger" };
  const [opened, received, sent] = await Promise.all([
    metric(world, "n2", "istio_tcp_connections_opened_total", labels),
    metric(world, "n2", "istio_tcp_received_bytes_total", labels),
    metric(world, "n2", "istio_tcp_sent_bytes_total", labels),
  ]);
  return { opened, received, sent };
}

export const accounting: Row = {
  name: "metrics and access records add up to what was sent",
  expected: `${connections} connections and ${connections * bytes} bytes each way, in the metrics and in the records`,
  attempt: async (world) => {
    const before = await totals(world);
    const mark = (await world.records("n2")).length;
    for (let i = 0; i < connections; i += 1) {
      await world.client("courier", [
        "tcp",
        ...flags({ connect: `${ledgerVip}:${ledgerPort}`, sendBytes: bytes, halfClose: true }),
      ]);
    }
    const records = await eventually("the records", async () => {
      const found = (await world.records("n2"))
        .slice(mark)
        .filter((each) => each["src_workload"] === "courier" && each["direction"] === "inbound");
      return found.length >= connections ? found : undefined;
    });
    const recorded = (field: string): number => records.reduce((sum, each) => sum + Number(each[field]), 0);
    const after = await totals(world);
    const counted = {
      opened: after.opened - before.opened,
      received: after.received - before.received,
      sent: after.sent - before.sent,
    };
    const all = connections * bytes;
    return {
      seen:
        `metrics: ${counted.opened} connections, ${counted.received} and ${counted.sent} bytes; ` +
        `records: ${records.length}, ${recorded("bytes_received")} and ${recorded("bytes_sent")} bytes`,
      ok:
        counted.opened === connections &&
        records.length === connections &&
        [counted.received, counted.sent, recorded("bytes_received"), recorded("bytes_sent")].every(
          (sum) => sum === all,
        ),
    };
  },
};
