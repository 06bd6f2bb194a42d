/** `certificates` and `connections`: what the nodes' data planes hold now. */
import { z } from "zod";
import { askNodes } from "./ask.js";
import type { MeshFilter } from "./mesh.js";
import type { Target } from "./run-directory.js";
import { certificateShape, connectionShape } from "./shapes.js";
import { age, byteCount, orDash } from "./table.js";
import type { View } from "./view.js";

/** Hexadecimal digits without colons, as the CA writes them. */
const plainSerial = (serial: string | undefined): string | null =>
  serial?.replaceAll(":", "").toLowerCase() ?? null;

function onNode(target: Target, filter: Pick<MeshFilter, "node">): Target {
  return filter.node === undefined
    ? target
    : { ...target, nodes: target.nodes.filter(({ name }) => name === filter.node) };
}

export async function certificatesView(target: Target, filter: Pick<MeshFilter, "node">): Promise<View> {
  const { answers, notes } = await askNodes(
    onNode(target, filter),
    "/proxy/certificates",
    z.array(certificateShape),
  );
  const rows = answers.flatMap(({ node, value }) =>
    value.map((one) => ({
      node,
      identity: one.identity,
      state: one.state,
      error: one.error ?? null,
      serial: plainSerial(one.chain[0]?.serial),
      not_before: one.chain[0]?.not_before ?? null,
      not_after: one.chain[0]?.not_after ?? null,
      root: plainSerial(one.roots[0]?.serial),
      roots: one.roots.map(({ serial }) => plainSerial(serial)),
      renew_at: one.renew_at ?? null,
      kept: one.kept ?? null,
    })),
  );
  return {
    data: rows,
    sections: [
      {
        columns: [
          ...["node", "identity", "state", "valid until", "serial", "root"].map((heading) => ({ heading })),
          { heading: "renew at", wide: true },
          { heading: "error", wide: true },
        ],
        rows: rows.map((one) => [
          one.node,
          one.identity,
          one.state,
          orDash(one.not_after),
          orDash(one.serial?.slice(0, 16)),
          `${orDash(one.root?.slice(0, 16))}${one.roots.length > 1 ? ` (+${one.roots.length - 1})` : ""}`,
          orDash(one.renew_at),
          orDash(one.error),
        ]),
        empty: "No certificates yet.",
      },
    ],
    notes,
  };
}

export async function connectionsView(
  target: Target,
  filter: Pick<MeshFilter, "node">,
  nowMs: number,
): Promise<View> {
  const { answers, notes } = await askNodes(
    onNode(target, filter),
    "/proxy/connections",
    z.array(connectionShape),
  );
  const connections = answers.flatMap(({ node, value }) => value.map((one) => ({ node, ...one })));
  const who = (workload: string | null | undefined, address: string | null | undefined): string =>
    orDash(workload ?? address);
  return {
    data: connections,
    sections: [
      {
        columns: [
          ...[
            "node",
            "direction",
            "protocol",
            "source",
            "destination",
            "service",
            "sent",
            "received",
            "age",
            "policy",
          ].map((heading) => ({ heading })),
          ...["source address", "destination address", "source identity", "destination identity", "id"].map(
            (heading) => ({ heading, wide: true }),
          ),
        ],
        rows: connections.map((one) => [
          one.node,
          one.direction,
          one.protocol,
          who(one.src_workload, one.src),
          who(one.dst_workload, one.dst),
          orDash(one.service),
          byteCount(one.bytes_sent ?? 0),
          byteCount(one.bytes_received ?? 0),
          one.opened_at ? age(nowMs - Date.parse(one.opened_at)) : "-",
          orDash(one.policy),
          orDash(one.src),
          orDash(one.dst),
          orDash(one.src_identity),
          orDash(one.dst_identity),
          String(one.id),
        ]),
        empty: "No open connections.",
      },
    ],
    notes,
  };
}
