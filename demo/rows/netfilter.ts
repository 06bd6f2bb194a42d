import { runIn } from "../lab/command.js";
import type { World } from "../world.js";
import type { Row } from "./row.js";

/** What the kernel has for one pod's namespace. */
interface Netfilter {
  readonly tables: readonly string[];
  readonly connections: number;
}

/** A file of the kernel as a namespace sees it; empty where the kernel has no such part. */
async function kernelFile(netns: string, path: string): Promise<string> {
  return runIn(netns, "sh", ["-c", `cat ${path} 2>/dev/null || true`]);
}

async function netfilterOf(netns: string): Promise<Netfilter> {
  const nftables = await runIn(netns, "nft", ["list", "tables"]);
  const legacy = await Promise.all(
    ["ip", "ip6"].map((family) => kernelFile(netns, `/proc/net/${family}_tables_names`)),
  );
  const lines = [nftables, ...legacy].flatMap((text) => text.split("\n").filter((line) => line !== ""));
  const connections = await kernelFile(netns, "/proc/sys/net/netfilter/nf_conntrack_count");
  return { tables: lines.map((line) => line.replace(/^table /, "")), connections: Number(connections) };
}

/** Tables of other modes, by which Meltemi brings connections to the data plane. */
const isOurs = (table: string): boolean => /^inet meltemi/.test(table);

export const netfilter: Row = {
  name: "the pods' netfilter holds Meltemi's own tables alone, and nothing at all in mode bpf",
  expected: (world) =>
    world.capturedBy.mode === "bpf"
      ? "mode bpf: in every pod of the mesh no nftables or iptables table, and no connection tracked"
      : `mode ${world.capturedBy.mode}, as the machine or the user allows no bpf: in every pod of the mesh Meltemi's tables alone`,
  noticed: "netfilter",
  attempt: async (world: World, broken) => {
    const pods = await world.enrolledPods();
    const touched = world.topology.pod("ledger").netns;
    if (broken) await runIn(touched, "nft", ["add", "table", "inet", "stray"]);
    const found = await Promise.all(
      pods.map(async ({ name }) => ({ name, ...(await netfilterOf(world.topology.pod(name).netns)) })),
    );
    if (broken) await runIn(touched, "nft", ["delete", "table", "inet", "stray"]);
    const bpf = world.capturedBy.mode === "bpf";
    const stray = found.flatMap(({ name, tables }) =>
      tables.filter((table) => bpf || !isOurs(table)).map((table) => `${table} in ${name}`),
    );
    const own = new Set(found.flatMap(({ tables }) => tables.filter(isOurs)));
    const connections = found.reduce((sum, pod) => sum + pod.connections, 0);
    return {
      seen:
        `in ${found.length} pods: tables ${[...own].join(", ") || "none"}` +
        `${stray.length > 0 ? `, and ${stray.join(", ")}` : ""}; ${connections} connections tracked`,
      ok: found.length > 0 && stray.length === 0 && (bpf ? connections === 0 : own.size > 0),
    };
  },
};
