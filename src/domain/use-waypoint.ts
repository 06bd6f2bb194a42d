/** The labels by which an object asks for a waypoint, read in one place. */

export const useWaypoint = "istio.io/use-waypoint";

export type WaypointWish =
  /** `none`: whatever those further out say. */
  { readonly none: true } | { readonly none: false; readonly namespace: string; readonly name: string };

/**
 * What an object's own labels ask for; undefined where they say nothing, which an empty label does, too: then those
 * further out decide. `namespace` is the object's, where no other is named.
 */
export function waypointWish(
  labels: ReadonlyMap<string, string> | undefined,
  namespace: string,
): WaypointWish | undefined {
  const name = labels?.get(useWaypoint);
  if (name === undefined || name === "") return undefined;
  if (name === "none") return { none: true };
  return { none: false, name, namespace: labels?.get("istio.io/use-waypoint-namespace") || namespace };
}
