/** What becomes of Gateways and routes, in Gateway API's words. */
import type { BackendRef, RouteObject } from "../../domain/http-route.js";
import type { GatewayObject } from "../../domain/objects.js";
import { isWaypoint } from "../../domain/waypoint-class.js";
import type { StatusCondition } from "../compiled.js";
import type { Compiler } from "../compiler.js";
import { attachments, backendProblem, isMeshParent } from "./http-route.js";

const condition = (
  type: StatusCondition["type"],
  status: boolean,
  reason: string,
  message: string,
): StatusCondition => ({ type, status, reason, message });

export function gatewayConditions(compiler: Compiler, gateway: GatewayObject): readonly StatusCondition[] {
  // Another implementation's: it writes the status.
  if (!isWaypoint(gateway)) return [];
  const accepted = condition("Accepted", true, "Accepted", "understood and taken");
  if (gateway.addresses.length === 0) {
    const message = "it has no address yet: what is to pass it is refused until it has";
    return [accepted, condition("Programmed", false, "AddressNotAssigned", message)];
  }
  const name = `${gateway.meta.namespace}/${gateway.meta.name}`;
  let served = 0;
  for (const one of compiler.all())
    if (one.type === "waypoint_config" && one.kind === "served" && one.waypoints.includes(name)) served += 1;
  return [accepted, condition("Programmed", true, "Programmed", `serves ${served} services and workloads`)];
}

function backendsOf(route: RouteObject): readonly BackendRef[] {
  return route.rules.flatMap(({ backends, filters }) => [
    ...backends,
    ...[...filters, ...backends.flatMap((backend) => backend.filters)].flatMap((filter) =>
      filter.type === "mirror" ? [filter.backend] : [],
    ),
  ]);
}

export function httpRouteConditions(compiler: Compiler, route: RouteObject): readonly StatusCondition[] {
  const { mesh } = compiler;
  const attached = attachments(mesh, route);
  const resolved = resolvedRefs(compiler, route);
  const parents = route.parents.filter(isMeshParent);
  if (parents.length === 0) {
    const message = "it is attached to no Service, and gateways are not run yet: nothing reads it";
    return [condition("Accepted", false, "NoMatchingParent", message), resolved];
  }
  if (attached.length === 0) {
    const names = parents.map(
      ({ namespace, name, port }) => `${namespace}/${name}${port === undefined ? "" : `:${port}`}`,
    );
    const message = `there is no Service ${names.join(", ")}`;
    return [condition("Accepted", false, "NoMatchingParent", message), resolved];
  }
  const refused = attached.filter((one) => one.refused);
  const refusal = `not for ${refused.map(({ parent }) => `${parent.namespace}/${parent.name}`).join(", ")}: policies judge requests as their callers send them, so that a route of another namespace than the Service's may not change them; leave out RequestHeaderModifier and URLRewrite, or move the route`;
  if (refused.length === attached.length)
    return [condition("Accepted", false, "UnsupportedValue", refusal), resolved];
  const waypoints = [...new Set(attached.flatMap(({ waypoint }) => waypoint ?? []))].sort();
  const accepted = condition("Accepted", true, "Accepted", "understood and taken");
  if (waypoints.length === 0) {
    const message =
      "its Service passes no waypoint: nothing reads it; label the Service or its namespace istio.io/use-waypoint";
    return [accepted, resolved, condition("Programmed", false, "NoWaypoint", message)];
  }
  const message = [`told to ${waypoints.join(", ")}`, ...(refused.length > 0 ? [refusal] : [])].join("; ");
  return [accepted, resolved, condition("Programmed", true, "Programmed", message)];
}

function resolvedRefs({ mesh }: Compiler, route: RouteObject): StatusCondition {
  for (const ref of backendsOf(route)) {
    const problem = backendProblem(mesh, route, ref);
    if (problem === undefined) continue;
    const port = ref.port === undefined ? "" : `:${ref.port}`;
    const backend = `${ref.kind} ${ref.namespace}/${ref.name}${port}`;
    switch (problem) {
      case "InvalidKind":
        return condition("ResolvedRefs", false, problem, `${backend}: only Services can be sent to`);
      case "RefNotPermitted": {
        const message = `${backend}: no ReferenceGrant of namespace ${ref.namespace} lets ${route.kind}s of ${route.meta.namespace} name it`;
        return condition("ResolvedRefs", false, problem, message);
      }
      case "BackendNotFound":
        return condition("ResolvedRefs", false, problem, `${backend} is not there`);
      case "PortNotFound":
        return condition(
          "ResolvedRefs",
          false,
          "BackendNotFound",
          `${backend}: the Service has no such port`,
        );
    }
  }
  return condition("ResolvedRefs", true, "ResolvedRefs", "every backend is there");
}
