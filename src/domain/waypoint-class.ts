import type { GatewayObject } from "./objects.js";

/** Classes whose Gateways are waypoints that this mesh runs. */
export const waypointClasses: ReadonlySet<string> = new Set(["meltemi-waypoint", "istio-waypoint"]);

export function isWaypoint(gateway: GatewayObject): boolean {
  return waypointClasses.has(gateway.className);
}
