import { eventually, runIn } from "../lab/command.js";
import { flags } from "../lab/flags.js";
import { catalogPort, catalogVip6 } from "../manifests.js";
import type { AccessRecord, HttpSummary, World } from "../world.js";
import type { Row } from "./row.js";

const requests = 10;
const replicas = ["catalog-1", "catalog-2"];

/** Does to every replica what a mesh does that keeps the source of IPv4 alone. */
async function hideSource(world: World, hidden: boolean): Promise<void> {
  for (const name of replicas) {
    const { netns, node } = world.topology.pod(name);
    if (!hidden) {
      await runIn(netns, "nft", ["delete", "table", "ip6", "sabotage"]);
      continue;
    }
    const chain = `chain out {
type nat hook postrouting priority srcnat;
oifname "lo" tcp dport ${catalogPort} ip6 saddr ${world.topology.pod("frontend").ip6} snat to fd00:88:${node.subnet}::99
}`;
    await runIn(netns, "nft", ["-f", "-"], `table ip6 sabotage {\n${chain}\n}\n`);
  }
}

const account = (record: AccessRecord | undefined, end: "src" | "dst"): string =>
  String(record?.[`${end}_identity`] ?? "nobody").replace(/^.*\/sa\//, "");

export const dualStack: Row = {
  name: "a service is reached over IPv6 as it is over IPv4",
  expected: `${requests} of ${requests} over [${catalogVip6}], by both replicas, called from the front end's IPv6 address; recorded at both ends as frontend -> catalog, in a tunnel to an IPv6 address`,
  noticed: "ipv6",
  attempt: async (world, broken) => {
    const frontend = world.topology.pod("frontend").ip6;
    const remote = `[${world.topology.pod("catalog-2").ip6}]:${catalogPort}`;
    const marks = { n1: (await world.records("n1")).length, n2: (await world.records("n2")).length };
    if (broken) await hideSource(world, true);
    const summary = await world.client<HttpSummary>("frontend", [
      "http",
      ...flags({
        url: `http://[${catalogVip6}]:${catalogPort}/`,
        requests,
        keepalive: "false",
        timeoutMs: 2000,
      }),
    ]);
    if (broken) await hideSource(world, false);
    const record = (node: "n1" | "n2", direction: string): Promise<AccessRecord> =>
      eventually(`the ${direction} record on ${node}`, async () =>
        (await world.records(node))
          .slice(marks[node])
          .find((each) => each["direction"] === direction && each["dst_hbone_addr"] === remote),
      );
    const records = [await record("n1", "outbound"), await record("n2", "inbound")];
    const pairs = new Set(records.map((each) => `${account(each, "src")} -> ${account(each, "dst")}`));
    const callers = Object.keys(summary.clients);
    const servers = replicas.filter((name) => (summary.servers[name] ?? 0) > 0);
    return {
      seen:
        `${summary.ok} answered by ${servers.join(" and ") || "nobody"}, called from ${callers.join(", ") || "nobody"} ` +
        `(the front end is [${frontend}]); records: ${[...pairs].join("; ")}, to ${remote}`,
      ok:
        summary.ok === requests &&
        servers.length === replicas.length &&
        callers.length === 1 &&
        callers[0] === `[${frontend}]` &&
        pairs.size === 1 &&
        pairs.has("frontend -> catalog"),
    };
  },
};
