/** The types that a waypoint is told (proto/meltemi/v1/waypoint.proto), by their resource's kind. */
import type { WaypointConfigKind } from "../../compile/waypoint/config.js";

const prefix = "type.googleapis.com/meltemi.v1.";

export const configTypeOf = {
  key_set: `${prefix}KeySet`,
  request_authentication: `${prefix}RequestAuthentication`,
  request_policy: `${prefix}HttpAuthorization`,
  traffic_policy: `${prefix}TrafficPolicy`,
  http_route: `${prefix}HttpRoute`,
  waypoint: `${prefix}Waypoint`,
  served: `${prefix}Served`,
} as const satisfies Readonly<Record<WaypointConfigKind, string>>;

export type ConfigType = (typeof configTypeOf)[WaypointConfigKind];

/** In the order in which one change is told: keys before the rules that name them, these and policies before routes, and both before what makes them reachable. */
export const configTypes: readonly ConfigType[] = [
  configTypeOf.key_set,
  configTypeOf.request_authentication,
  configTypeOf.request_policy,
  configTypeOf.traffic_policy,
  configTypeOf.http_route,
  configTypeOf.waypoint,
  configTypeOf.served,
];

export function isConfigType(text: string): text is ConfigType {
  return (configTypes as readonly string[]).includes(text);
}
