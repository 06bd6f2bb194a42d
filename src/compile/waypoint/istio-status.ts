/** What becomes of VirtualServices and DestinationRules: in force where, told to whom, and what they name in vain. */
import type { DestinationRuleObject } from "../../domain/destination-rule.js";
import { coversHost, fullHost, isVisible, isWildcard } from "../../domain/host-name.js";
import { destinationsOf, type VirtualServiceObject } from "../../domain/virtual-service.js";
import type { StatusCondition } from "../compiled.js";
import type { Compiler } from "../compiler.js";
import { allServices, type KnownService, serviceMeant, servicesNamed } from "./known-service.js";
import { compileTrafficPolicy, destinationRulesOf, workloadsWith } from "./traffic-policy.js";
import {
  destinationTarget,
  rulingVirtualService,
  servicesOfHosts,
  virtualParents,
} from "./virtual-service.js";

const condition = (
  type: StatusCondition["type"],
  status: boolean,
  reason: string,
  message: string,
): StatusCondition => ({ type, status, reason, message });

const accepted = condition("Accepted", true, "Accepted", "understood and taken");
const named = (services: readonly KnownService[]): string =>
  services.map(({ hostname }) => hostname).join(", ");

export function virtualServiceConditions(
  compiler: Compiler,
  object: VirtualServiceObject,
): readonly StatusCondition[] {
  const { mesh, config } = compiler;
  const { namespace } = object.meta;
  if (!object.forMesh) {
    const message = "it is for gateways, which are not run yet: nothing reads it";
    return [condition("Accepted", false, "NotForMesh", message)];
  }
  const resolved = destinationsResolved(compiler, object);
  if (object.rules.length === 0) {
    const message = "it has no rule for HTTP: nothing reads it";
    return [accepted, condition("Programmed", false, "NoHttpRules", message)];
  }
  if (!isVisible(object.exportTo, namespace, namespace)) {
    const message = `exportTo leaves out its own namespace ${namespace}, to whose callers and services it would apply`;
    return [accepted, resolved, condition("Programmed", false, "NotExported", message)];
  }
  const services = servicesOfHosts(mesh, config, object);
  if (services.length === 0) {
    const message = `there is no service ${object.hosts.join(", ")}`;
    return [condition("Accepted", false, "NoMatchingParent", message), resolved];
  }
  const lost = services.filter(
    (service) => rulingVirtualService(mesh, config, service, namespace) !== object,
  );
  const parents = virtualParents(mesh, config, object);
  const notes = lost.length > 0 ? [overruled(compiler, object, lost)] : [];
  if (parents.length === 0)
    return [accepted, resolved, condition("Programmed", false, "Overruled", notes.join("; "))];
  const refused = parents.filter((one) => one.refused);
  const refusal = `not for ${named(refused.map(({ service }) => service))}: policies judge requests as their callers send them, so that a VirtualService of another namespace than the service's may not change them; leave out headers.request and rewrite, or move it`;
  if (refused.length === parents.length)
    return [condition("Accepted", false, "UnsupportedValue", [refusal, ...notes].join("; ")), resolved];
  if (refused.length > 0) notes.push(refusal);
  const waypoints = [...new Set(parents.flatMap(({ waypoint }) => waypoint ?? []))].sort();
  if (waypoints.length === 0) {
    const message = `${named(parents.map(({ service }) => service))}: passes no waypoint, and nothing else reads requests; label the Service or its namespace istio.io/use-waypoint`;
    return [accepted, resolved, condition("Programmed", false, "NoWaypoint", message)];
  }
  const consumed = parents.filter((one) => !one.refused && one.service.meta.namespace !== namespace);
  if (consumed.length > 0)
    notes.push(
      `of ${named(consumed.map(({ service }) => service))} only for callers of namespace ${namespace}`,
    );
  const routed = parents.filter(
    ({
      service: {
        object: { kind },
        meta,
      },
    }) =>
      kind === "Service" &&
      [...mesh.routesByService.get(`${meta.namespace}/${meta.name}`)].some((route) =>
        route.parents.some(
          (ref) => ref.kind === "Service" && ref.name === meta.name && ref.namespace === meta.namespace,
        ),
      ),
  );
  if (routed.length > 0)
    notes.push(`HTTPRoutes of ${named(routed.map(({ service }) => service))} are considered before it`);
  const message = [`told to ${waypoints.join(", ")}`, ...notes].join("; ");
  return [accepted, resolved, condition("Programmed", true, "Programmed", message)];
}

function overruled(
  { mesh, config }: Compiler,
  { meta }: VirtualServiceObject,
  services: readonly KnownService[],
): string {
  const rulers = services.flatMap((service) => {
    const ruler = rulingVirtualService(mesh, config, service, meta.namespace);
    return ruler ? [`${ruler.meta.namespace}/${ruler.meta.name} for ${service.hostname}`] : [];
  });
  return `in force in its place (more specific, older, or first by name): VirtualService ${rulers.join(", ")}`;
}

/** Whether every destination is there, with its port and its subset. */
function destinationsResolved({ mesh, config }: Compiler, object: VirtualServiceObject): StatusCondition {
  const { namespace } = object.meta;
  for (const destination of destinationsOf(object)) {
    const { host, port, subset } = destination;
    const service = serviceMeant(mesh, config, host, namespace);
    if (!service) {
      const message = `${host}: there is no such service; its share of requests is answered with 500`;
      return condition("ResolvedRefs", false, "BackendNotFound", message);
    }
    const { invalid } = destinationTarget(mesh, config, namespace, destination, service.ports[0] ?? 0);
    if (invalid !== undefined) {
      const message = `${host}${port === undefined ? "" : `:${port}`}: the service has no such port`;
      return condition("ResolvedRefs", false, "BackendNotFound", message);
    }
    if (subset === undefined) continue;
    const rules = destinationRulesOf(mesh, config, service);
    if (!rules.some(({ subsets }) => subsets.some(({ name }) => name === subset))) {
      const message = `${host}: no DestinationRule in force has subset ${subset}; its share of requests finds no endpoint`;
      return condition("ResolvedRefs", false, "SubsetNotFound", message);
    }
  }
  return condition("ResolvedRefs", true, "ResolvedRefs", "every destination is there");
}

export function destinationRuleConditions(
  compiler: Compiler,
  rule: DestinationRuleObject,
): readonly StatusCondition[] {
  const { mesh, config } = compiler;
  const host = fullHost(rule.host, rule.meta.namespace, config.domainSuffix);
  const services = isWildcard(host)
    ? [...allServices(mesh, config)].filter(({ hostname }) => coversHost(host, hostname))
    : servicesNamed(mesh, config, host);
  if (services.length === 0) {
    const message = `there is no service ${rule.host}`;
    return [accepted, condition("Programmed", false, "HostNotFound", message)];
  }
  const ruled = services.filter((service) => destinationRulesOf(mesh, config, service).includes(rule));
  if (ruled.length === 0)
    return [accepted, condition("Programmed", false, ...notInForce(compiler, rule, services))];
  const policies = ruled.flatMap((service) => compileTrafficPolicy(mesh, config, service) ?? []);
  const waypoints = [...new Set(policies.flatMap((policy) => policy.waypoints))].sort();
  if (waypoints.length === 0) {
    const message = `${named(ruled)}: passes no waypoint, and no waypoint's route leads to it`;
    return [accepted, condition("Programmed", false, "NoWaypoint", message)];
  }
  const empty = rule.subsets.filter(({ labels }) =>
    ruled.every((service) => workloadsWith(mesh, config, service, labels).length === 0),
  );
  const notes = [
    ...(empty.length > 0 ? [`no workload is of subset ${empty.map(({ name }) => name).join(", ")}`] : []),
    ...merged(compiler, rule, ruled),
  ];
  const message = [`told to ${waypoints.join(", ")}`, ...notes].join("; ");
  return [accepted, condition("Programmed", true, "Programmed", message)];
}

/** What of the rule gives way to an older one of the same host. */
function merged(
  { mesh, config }: Compiler,
  rule: DestinationRuleObject,
  ruled: readonly KnownService[],
): readonly string[] {
  const [service] = ruled;
  if (!service) return [];
  const rules = destinationRulesOf(mesh, config, service);
  const older = rules.slice(0, rules.indexOf(rule));
  const settled = older.find(({ settings }) => settings !== undefined);
  const taken = rule.subsets.filter(({ name }) =>
    older.some(({ subsets }) => subsets.some((one) => one.name === name)),
  );
  return [
    ...(settled && rule.settings ? [`the trafficPolicy of ${settled.meta.name} is in force`] : []),
    ...(taken.length > 0 ? [`an older rule has subset ${taken.map(({ name }) => name).join(", ")}`] : []),
  ];
}

function notInForce(
  { mesh, config }: Compiler,
  { meta }: DestinationRuleObject,
  services: readonly KnownService[],
): [reason: string, message: string] {
  const others = [
    ...new Set(
      services.flatMap((service) =>
        destinationRulesOf(mesh, config, service).map((one) => `${one.meta.namespace}/${one.meta.name}`),
      ),
    ),
  ];
  if (others.length > 0)
    return [
      "Overruled",
      `in force in its place (nearer or more specific): DestinationRule ${others.join(", ")}`,
    ];
  const homes = [...new Set(services.map((service) => service.meta.namespace))].join(", ");
  const message = `only rules of the service's own namespace (${homes}) or of a root namespace are in force, and only where exportTo lets them; this one is of ${meta.namespace}`;
  return ["OtherNamespace", message];
}
