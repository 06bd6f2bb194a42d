import type { RouteObject, ParentRef } from "../http-route.js";
import type { Problem } from "../problem.js";
import { waypointWish } from "../use-waypoint.js";
import { isWaypoint } from "../waypoint-class.js";
import { problemOf, type Inventory } from "./inventory.js";

/** Whether connections to the service are to pass a waypoint: its own label, else its namespace's. */
function asksForWaypoint(inventory: Inventory, namespace: string, name: string): boolean {
  const wish =
    waypointWish(inventory.find("Service", namespace, name)?.meta.labels, namespace) ??
    waypointWish(inventory.find("Namespace", "", namespace)?.meta.labels, namespace);
  return wish?.none === false;
}

function checkParent(
  inventory: Inventory,
  route: RouteObject,
  parent: ParentRef,
  index: number,
): Problem | undefined {
  const path = `spec.parentRefs[${index}]`;
  const value = `${parent.kind}/${parent.namespace}/${parent.name}`;
  if (parent.group === "" && parent.kind === "Service") {
    const service = inventory.find("Service", parent.namespace, parent.name);
    if (!service) {
      const hint = `add the Service to namespace ${parent.namespace}, or correct the reference`;
      return problemOf(route, "warning", path, { value, message: "names a Service that is not there", hint });
    }
    if (parent.port !== undefined && !service.ports.some(({ port }) => port === parent.port)) {
      const hint = `it has: ${service.ports.map(({ port }) => port).join(", ")}`;
      return problemOf(route, "warning", path, { value, message: `has no port ${parent.port}`, hint });
    }
    if (!asksForWaypoint(inventory, parent.namespace, parent.name)) {
      const hint = "label the Service, or its namespace, istio.io/use-waypoint: NAME of a waypoint Gateway";
      return problemOf(route, "warning", path, {
        value,
        message: "passes no waypoint, and nothing else reads requests",
        hint,
      });
    }
    return undefined;
  }
  const gateway =
    parent.kind === "Gateway" ? inventory.find("Gateway", parent.namespace, parent.name) : undefined;
  const message =
    gateway && isWaypoint(gateway)
      ? "is a waypoint: attach the route to the Service that passes it"
      : `${parent.kind}s are not run yet: the route is not read for it`;
  return problemOf(route, "unsupported", path, { value, message });
}

/** Routes against what they are attached to. What they send to, their status says. */
export function routeProblems(inventory: Inventory): Problem[] {
  return [...inventory.all("HTTPRoute"), ...inventory.all("GRPCRoute")].flatMap((route) =>
    route.parents.flatMap((parent, index) => {
      const problem = checkParent(inventory, route, parent, index);
      return problem ? [problem] : [];
    }),
  );
}
