/**
 * DestinationRules as one traffic policy for each service. In force are those of the service's own namespace; where
 * it has none, those of a root namespace. Of these the most specific host counts; rules of one host are merged as
 * Istio documents: the oldest with a trafficPolicy gives it, subsets are gathered, the oldest's first.
 */
import { isLive } from "../../domain/address-claim.js";
import { type DestinationRuleObject, noSettings } from "../../domain/destination-rule.js";
import { compareHosts, coversHost, fullHost, hostKey, isVisible } from "../../domain/host-name.js";
import { podUid, serviceEntryUid, workloadEntryUid, type WorkloadUid } from "../../domain/ids.js";
import { canonicalIp } from "../../domain/ip.js";
import { isOlder } from "../../domain/policy-age.js";
import { selects } from "../../domain/selector.js";
import type { EndpointSliceObject, PodObject, WorkloadEntryObject } from "../../domain/objects.js";
import { addressesOf, type Mesh, podsOf } from "../../model/mesh.js";
import type { CompileConfig } from "../config.js";
import { labelsOfEntry } from "../workload.js";
import { bindingName, waypointOfService } from "./binding.js";
import type { CompiledTrafficPolicy } from "./config.js";
import { attachments } from "./http-route.js";
import type { KnownService } from "./known-service.js";
import { virtualParents } from "./virtual-service.js";

type Labels = ReadonlyMap<string, string>;

/** The rules in force for a service, all of one host, the oldest first. */
export function destinationRulesOf(
  mesh: Mesh,
  config: CompileConfig,
  { hostname, meta }: KnownService,
): readonly DestinationRuleObject[] {
  const all = new Set([
    ...mesh.destinationRulesByHost.get(hostKey(hostname, meta.namespace)),
    ...mesh.destinationRulesWithWildcard,
  ]);
  const host = (rule: DestinationRuleObject): string =>
    fullHost(rule.host, rule.meta.namespace, config.domainSuffix);
  for (const namespace of [meta.namespace, ...config.rootNamespaces]) {
    const rules = [...all].filter(
      (rule) =>
        rule.meta.namespace === namespace &&
        coversHost(host(rule), hostname) &&
        isVisible(rule.exportTo, namespace, meta.namespace),
    );
    const [best] = rules.map(host).sort(compareHosts);
    if (best === undefined) continue;
    return rules.filter((rule) => host(rule) === best).sort((a, b) => (isOlder(a, b) ? -1 : 1));
  }
  return [];
}

/** Waypoints that send requests to the service: its own, and those with a route that leads to it. */
function sendersTo(
  mesh: Mesh,
  config: CompileConfig,
  { object, meta, hostname }: KnownService,
): readonly string[] {
  const own = waypointOfService(mesh, meta);
  const routes =
    object.kind === "Service" ? [...mesh.routesByService.get(`${meta.namespace}/${meta.name}`)] : [];
  const virtual = [...mesh.virtualServicesByDestination.get(hostKey(hostname, meta.namespace))];
  const attached = [
    ...routes.flatMap((route) => attachments(mesh, route)),
    ...virtual.flatMap((object) => virtualParents(mesh, config, object)),
  ].flatMap(({ waypoint }) => waypoint ?? []);
  return [...new Set([...(own ? [bindingName(own)] : []), ...attached])].sort();
}

/** Pods and entries that a selector finds; none where there is no selector. */
function* selected(
  mesh: Mesh,
  namespace: string,
  selector: Labels | undefined,
): Iterable<PodObject | WorkloadEntryObject> {
  if (!selector) return;
  for (const pod of mesh.pods.inNamespace(namespace)) if (selects(selector, pod.meta.labels)) yield pod;
  for (const entry of mesh.workloadEntries.inNamespace(namespace))
    if (selects(selector, labelsOfEntry(entry))) yield entry;
}

/** Pods that EndpointSlices list, by name or by address. */
function* listed(mesh: Mesh, slices: Iterable<EndpointSliceObject>): Iterable<PodObject> {
  for (const slice of slices) {
    const names = [...podsOf(slice), ...addressesOf(slice).flatMap((ip) => [...mesh.podsByIp.get(ip)])];
    for (const name of names) {
      const pod = mesh.pods.named(name);
      if (pod) yield pod;
    }
  }
}

function candidates(mesh: Mesh, { object, meta }: KnownService): Iterable<PodObject | WorkloadEntryObject> {
  if (object.kind === "ServiceEntry") return selected(mesh, meta.namespace, object.workloadSelector);
  const slices = mesh.slicesByService.get(`${meta.namespace}/${meta.name}`);
  return slices.size > 0 ? listed(mesh, slices) : selected(mesh, meta.namespace, object.selector);
}

/** Workloads of the service that have the labels, ready or not: a proxy looks for them among its endpoints. */
export function workloadsWith(
  mesh: Mesh,
  config: CompileConfig,
  service: KnownService,
  labels: Labels,
): readonly WorkloadUid[] {
  const { object, meta } = service;
  const uids = new Set<WorkloadUid>();
  for (const one of candidates(mesh, service)) {
    const { namespace, name } = one.meta;
    if (one.kind === "WorkloadEntry") {
      if (selects(labels, labelsOfEntry(one))) uids.add(workloadEntryUid(config.clusterId, namespace, name));
    } else if (selects(labels, one.meta.labels) && isLive(one)) {
      uids.add(podUid(config.clusterId, namespace, name));
    }
  }
  if (object.kind === "ServiceEntry" && object.resolution !== "NONE") {
    for (const endpoint of object.endpoints) {
      const ip = canonicalIp(endpoint.address);
      const has = endpoint.labels.size > 0 ? endpoint.labels : meta.labels;
      if (ip !== undefined && selects(labels, has))
        uids.add(serviceEntryUid(config.clusterId, meta.namespace, meta.name, ip));
    }
  }
  return [...uids].sort();
}

export function compileTrafficPolicy(
  mesh: Mesh,
  config: CompileConfig,
  service: KnownService,
): CompiledTrafficPolicy | undefined {
  if (mesh.destinationRules.size === 0) return undefined;
  const rules = destinationRulesOf(mesh, config, service);
  const [first] = rules;
  if (!first) return undefined;
  const waypoints = sendersTo(mesh, config, service);
  if (waypoints.length === 0) return undefined;
  const subsets = new Map<string, Labels>();
  for (const rule of rules)
    for (const { name, labels } of rule.subsets) if (!subsets.has(name)) subsets.set(name, labels);
  return {
    type: "waypoint_config",
    kind: "traffic_policy",
    name: service.key,
    waypoints,
    sourceObject: `DestinationRule/${first.meta.namespace}/${first.meta.name}`,
    settings: rules.find(({ settings }) => settings !== undefined)?.settings ?? noSettings,
    subsets: [...subsets].map(([name, labels]) => ({
      name,
      workloads: workloadsWith(mesh, config, service, labels),
    })),
  };
}
