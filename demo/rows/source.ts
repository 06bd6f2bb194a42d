import { flags } from "../lab/flags.js";
import { catalogPort } from "../manifests.js";
import { runIn } from "../lab/command.js";
import type { HttpSummary } from "../world.js";
import type { Row } from "./row.js";

export const source: Row = {
  name: "the application sees its caller's own address",
  expected: "catalog-2 is called from the front end's address, and no other",
  noticed: "source",
  attempt: async (world, broken) => {
    const { ip, netns } = world.topology.pod("catalog-2");
    const frontend = world.topology.pod("frontend").ip;
    if (broken) {
      // What a mesh that does not keep the source does: the application sees another address of its own network.
      const rule = `oifname "lo" tcp dport ${catalogPort} ip saddr ${frontend} snat to 10.88.2.99`;
      const chain = `chain out {
type nat hook postrouting priority srcnat;
${rule}
}`;
      await runIn(
        netns,
        "nft",
        ["-f", "-"],
        `table ip sabotage {
${chain}
}
`,
      );
    }
    const summary = await world.client<HttpSummary>("frontend", [
      "http",
      ...flags({ url: `http://${ip}:${catalogPort}/`, requests: 5 }),
    ]);
    if (broken) await runIn(netns, "nft", ["delete", "table", "ip", "sabotage"]);
    const seen = Object.keys(summary.clients);
    return {
      seen: `called from ${seen.join(", ") || "nobody"} (the front end is ${frontend})`,
      ok: summary.ok === 5 && seen.length === 1 && seen[0] === frontend,
    };
  },
};
