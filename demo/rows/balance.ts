import { flags } from "../lab/flags.js";
import { catalogPort, catalogVip } from "../manifests.js";
import type { HttpSummary } from "../world.js";
import type { Row } from "./row.js";

const requests = 100;

export const balance: Row = {
  name: "requests to a service are balanced over nodes",
  expected: `${requests} of ${requests} answered, by catalog-1 on n1 and catalog-2 on n2, at least a fifth each`,
  attempt: async (world) => {
    const summary = await world.client<HttpSummary>("frontend", [
      "http",
      ...flags({ url: `http://${catalogVip}:${catalogPort}/`, requests, keepalive: "false" }),
    ]);
    const [first = 0, second = 0] = ["catalog-1", "catalog-2"].map((server) => summary.servers[server] ?? 0);
    return {
      seen: `${summary.ok} answered: catalog-1 ${first}, catalog-2 ${second}${errorsOf(summary)}`,
      ok: summary.ok === requests && first + second === requests && Math.min(first, second) >= requests / 5,
    };
  },
};

/** The errors of a summary as text, empty when there were none. */
export function errorsOf(summary: HttpSummary): string {
  const errors = Object.entries(summary.errors).map(([kind, count]) => `${count} ${kind}`);
  return errors.length === 0 ? "" : `; errors: ${errors.join(", ")}`;
}
