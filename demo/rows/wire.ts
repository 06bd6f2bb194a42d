import { flags } from "../lab/flags.js";
import { ledgerPort } from "../manifests.js";
import type { CaptureSummary, World } from "../world.js";
import type { Row } from "./row.js";

const marker = "the-meltemi-is-felt-by-every-ship-and-seen-by-none";
const markerBytes = 5_000;

/** Sends the marker from the front end to the ledger on the other node, capturing on the wire between. */
async function sendMarker(world: World): Promise<CaptureSummary> {
  const capture = await world.capture(world.topology.pod("ledger").node.wire, marker);
  const target = `${world.topology.pod("ledger").ip}:${ledgerPort}`;
  await world.client("frontend", [
    "tcp",
    ...flags({ connect: target, marker, sendBytes: markerBytes, halfClose: true }),
  ]);
  return capture.stop();
}

export const wire: Row = {
  name: "nothing readable on the wire between the nodes",
  expected: "TLS records and no marker with the mesh on; the marker with it off; packets seen, none dropped",
  noticed: "plaintext",
  attempt: async (world, broken) => {
    if (broken) await world.setInMesh("frontend", false);
    const on = await sendMarker(world);
    await world.setInMesh("frontend", false);
    const off = await sendMarker(world);
    await world.setInMesh("frontend", true);
    const marked = (found: boolean): string => (found ? "the marker" : "no marker");
    return {
      seen:
        `on: ${on.tls_records} TLS records, ${marked(on.marker_found)}, ${on.packets} packets, ${on.drops} dropped; ` +
        `off: ${marked(off.marker_found)}, ${off.packets} packets, ${off.drops} dropped`,
      ok:
        on.tls_records > 0 &&
        !on.marker_found &&
        on.packets > 0 &&
        on.drops === 0 &&
        off.marker_found &&
        off.drops === 0,
    };
  },
};
