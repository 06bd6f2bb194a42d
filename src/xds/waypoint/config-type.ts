/** The types that a waypoint is told (proto/meltemi/v1/waypoint.proto), by their resource's kind. */
import type { WaypointConfigKind } from "../../compile/waypoint/config.js";

const prefix = "type.googleapis.com/meltemi.v1.";

export const configTypeOf = {
  request_policy: `${prefix}HttpAuthorization`,
  http_route: `${prefix}HttpRoute`,
  waypoint: `${prefix}Waypoint`,
  served: `${prefix}Served`,
} as const satisfies Readonly<Record<WaypointConfigKind, string>>;

/** Of which nothing is made yet: a subscription is answered with none. */
export const trafficPolicyType = `${prefix}TrafficPolicy`;

export type ConfigType = (typeof configTypeOf)[WaypointConfigKind] | typeof trafficPolicyType;

/** In the order in which one change is told: policies before routes, and both before what makes them reachable. */
export const configTypes: readonly ConfigType[] = [
  configTypeOf.request_policy,
  trafficPolicyType,
  configTypeOf.http_route,
  configTypeOf.waypoint,
  configTypeOf.served,
];

export function isConfigType(text: string): text is ConfigType {
  return (configTypes as readonly string[]).includes(text);
}
