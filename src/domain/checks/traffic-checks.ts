/** VirtualServices and DestinationRules against what they name. */
import { coversHost, hostKey, isWildcard } from "../host-name.js";
import type { DestinationRuleObject } from "../destination-rule.js";
import type { ServiceEntryObject, ServiceObject } from "../objects.js";
import { isOlder } from "../policy-age.js";
import type { Problem } from "../problem.js";
import { selects, selectorText } from "../selector.js";
import { waypointWish } from "../use-waypoint.js";
import { destinationsOf, type VirtualServiceObject } from "../virtual-service.js";
import { problemOf, type Inventory } from "./inventory.js";

type Found = ServiceObject | ServiceEntryObject;

/** Services that a host names; wildcards are not looked up. */
function servicesOf(inventory: Inventory, host: string, namespace: string): readonly Found[] {
  const key = hostKey(host, namespace);
  const slash = key.indexOf("/");
  const service =
    slash < 0 ? undefined : inventory.find("Service", key.slice(0, slash), key.slice(slash + 1));
  if (service) return [service];
  return inventory.all("ServiceEntry").filter(({ hosts }) => hosts.some((one) => coversHost(one, host)));
}

const absent = (host: string, namespace: string): { message: string; hint: string } => ({
  message: "names a service that is not there",
  hint: host.includes(".")
    ? "add a Service or ServiceEntry of that name; a Service's full name is NAME.NAMESPACE.svc.cluster.local"
    : `add the Service to namespace ${namespace}, or write its full name`,
});

/** Whether requests to the service pass a waypoint: nothing else reads them. */
function passesWaypoint(inventory: Inventory, { meta }: Found): boolean {
  const own = waypointWish(meta.labels, meta.namespace);
  const namespace = inventory.find("Namespace", "", meta.namespace);
  return (own ?? waypointWish(namespace?.meta.labels, meta.namespace))?.none === false;
}

function checkHosts(inventory: Inventory, object: VirtualServiceObject): Problem[] {
  const { namespace } = object.meta;
  return object.hosts.flatMap((host, index) => {
    if (isWildcard(host)) return [];
    const path = `spec.hosts[${index}]`;
    const services = servicesOf(inventory, host, namespace);
    if (services.length === 0)
      return [problemOf(object, "warning", path, { value: host, ...absent(host, namespace) })];
    if (services.some((service) => passesWaypoint(inventory, service))) return [];
    const message = "passes no waypoint, and nothing else reads requests";
    const hint = "label the Service, or its namespace, istio.io/use-waypoint: NAME of a waypoint Gateway";
    return [problemOf(object, "warning", path, { value: host, message, hint })];
  });
}

function checkDestinations(inventory: Inventory, object: VirtualServiceObject): Problem[] {
  const { namespace } = object.meta;
  const seen = new Set<string>();
  return destinationsOf(object).flatMap(({ host, subset }) => {
    const value = subset === undefined ? host : `${host}, subset ${subset}`;
    if (seen.has(value)) return [];
    seen.add(value);
    if (servicesOf(inventory, host, namespace).length === 0)
      return [problemOf(object, "warning", "spec.http", { value: host, ...absent(host, namespace) })];
    if (subset === undefined) return [];
    const rules = inventory
      .all("DestinationRule")
      .filter((rule) => hostKey(rule.host, rule.meta.namespace) === hostKey(host, namespace));
    if (rules.some(({ subsets }) => subsets.some(({ name }) => name === subset))) return [];
    const message = "is a subset that no DestinationRule of the host has: its requests find no endpoint";
    const hint = "add it to a DestinationRule of the service's namespace";
    return [problemOf(object, "warning", "spec.http", { value, message, hint })];
  });
}

/** Another VirtualService of the namespace that is in force for one of its hosts. */
function checkRivals(
  object: VirtualServiceObject,
  byHost: ReadonlyMap<string, readonly VirtualServiceObject[]>,
): Problem[] {
  const { namespace, name } = object.meta;
  return object.hosts.flatMap((host, index) => {
    const rivals = (byHost.get(`${namespace} ${hostKey(host, namespace)}`) ?? []).filter(
      (other) => other.meta.name !== name && isOlder(other, object),
    );
    const [rival] = rivals.sort((a, b) => (isOlder(a, b) ? -1 : 1));
    if (!rival) return [];
    const message = `is also a host of VirtualService ${namespace}/${rival.meta.name}, which is older or first by name: this one's rules for it are not in force`;
    const hint = "write the rules of one host in one VirtualService";
    return [problemOf(object, "warning", `spec.hosts[${index}]`, { value: host, message, hint })];
  });
}

export function virtualServiceProblems(inventory: Inventory): Problem[] {
  const meant = inventory.all("VirtualService").filter(({ forMesh, rules }) => forMesh && rules.length > 0);
  const byHost = new Map<string, VirtualServiceObject[]>();
  for (const object of meant) {
    for (const host of object.hosts) {
      const key = `${object.meta.namespace} ${hostKey(host, object.meta.namespace)}`;
      byHost.set(key, [...(byHost.get(key) ?? []), object]);
    }
  }
  return meant.flatMap((object) => [
    ...checkHosts(inventory, object),
    ...checkDestinations(inventory, object),
    ...checkRivals(object, byHost),
  ]);
}

function checkRule(inventory: Inventory, rule: DestinationRuleObject): Problem[] {
  const { host } = rule;
  const { namespace } = rule.meta;
  if (isWildcard(host)) return [];
  const services = servicesOf(inventory, host, namespace);
  const [service] = services;
  if (!service) return [problemOf(rule, "warning", "spec.host", { value: host, ...absent(host, namespace) })];
  const home = service.meta.namespace;
  if (!services.some(({ meta }) => meta.namespace === namespace) && !inventory.isRoot(namespace)) {
    const message = `is a service of namespace ${home}: only rules of that namespace, or of a root namespace, are in force`;
    const hint = `write the rule in namespace ${home}`;
    return [problemOf(rule, "warning", "spec.host", { value: host, message, hint })];
  }
  if (service.kind !== "Service") return [];
  const pods = inventory.podsBehind(service);
  // Without pods the service itself has its warning.
  if (pods.length === 0) return [];
  return rule.subsets.flatMap(({ name, labels }, index) => {
    if (pods.some((pod) => selects(labels, pod.meta.labels))) return [];
    const value = selectorText(labels);
    const message = `selects no pod of the service: subset ${name} has no endpoint`;
    return [problemOf(rule, "warning", `spec.subsets[${index}].labels`, { value, message })];
  });
}

export function destinationRuleProblems(inventory: Inventory): Problem[] {
  return inventory.all("DestinationRule").flatMap((rule) => checkRule(inventory, rule));
}
