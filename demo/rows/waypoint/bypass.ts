import { eventually } from "../../lab/command.js";
import { flags } from "../../lab/flags.js";
import { gateway, kitchenPort, waypointName } from "../../kitchen.js";
import type { HttpSummary, World } from "../../world.js";
import type { Row } from "../row.js";
import { statusesOf } from "./ask.js";

/** Asks a pod of the kitchen by its own address, for what its waypoint lets nobody have. */
function direct(world: World, pod: string): Promise<HttpSummary> {
  const url = `http://${world.topology.pod("kitchen-1").ip}:${kitchenPort}/menu`;
  return world.client<HttpSummary>(pod, ["http", ...flags({ url, timeoutMs: 2000 })]);
}

export const bypass: Row = {
  name: "nobody comes around the waypoint",
  expected:
    "outsider, in plaintext to the pod itself: refused (record: waypoint_bypassed); front end: comes to it through the waypoint",
  noticed: "bypass",
  attempt: async (world, broken) => {
    const { ip: waypointIp } = world.topology.pod(waypointName);
    if (broken) {
      await world.apply("kitchen-gateway.yaml", gateway(world.topology.pod(waypointName), false));
      await eventually("the outsider to be let in", async () => (await direct(world, "outsider")).ok === 1);
    }
    const before = (await world.records("n1")).length;
    const outsider = await direct(world, "outsider");
    const inside = await direct(world, "frontend");
    const record = broken
      ? undefined
      : await eventually("the record", async () =>
          (await world.records("n1")).slice(before).find((each) => each["reason"] === "waypoint_bypassed"),
        );
    if (broken) {
      await world.apply("kitchen-gateway.yaml", gateway(world.topology.pod(waypointName)));
      await eventually(
        "the outsider to be refused again",
        async () => (await direct(world, "outsider")).ok === 0,
      );
    }
    const through = Object.keys(inside.clients).every((client) => client.startsWith(waypointIp));
    return {
      seen: `outsider: ${outsider.ok === 0 ? "refused" : `in (${statusesOf(outsider)})`} (record: ${record?.["reason"] ?? "none"}); front end: ${inside.ok === 1 && through ? "through the waypoint" : `${statusesOf(inside)}, seen as ${Object.keys(inside.clients).join(", ") || "nobody"}`}`,
      ok: outsider.ok === 0 && record !== undefined && inside.ok === 1 && through,
    };
  },
};
