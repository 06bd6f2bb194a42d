/**
 * VirtualServices for waypoints. Of a service of its own namespace it is for every caller; of another namespace's,
 * for callers of its own, and may not change requests: policies have judged them as they came. Of several for one service and the same callers, the most specific host is in force,
 * then the oldest, then the first by name: rules of several are not merged (Istio, for traffic inside the mesh).
 */
import {
  compareHosts,
  coversHost,
  fullHost,
  hostKey,
  isVisible,
  isWildcard,
} from "../../domain/host-name.js";
import { isOlder } from "../../domain/policy-age.js";
import { changesRequest } from "../../domain/http-route.js";
import type {
  Destination,
  VirtualFilter,
  VirtualRule,
  VirtualServiceObject,
} from "../../domain/virtual-service.js";
import type { Mesh } from "../../model/mesh.js";
import type { CompileConfig } from "../config.js";
import { bindingName, waypointOfService } from "./binding.js";
import type { CompiledFilter, CompiledHttpRoute, CompiledRule, CompiledTarget } from "./config.js";
import { allServices, type KnownService, serviceMeant, servicesNamed } from "./known-service.js";

/** Whether it says anything of requests inside the mesh that anybody sees. */
export function isInMesh({ forMesh, rules, exportTo, meta }: VirtualServiceObject): boolean {
  return forMesh && rules.length > 0 && isVisible(exportTo, meta.namespace, meta.namespace);
}

/** The most specific of the hosts that cover the service. */
function hostFor(
  { hosts, meta }: VirtualServiceObject,
  config: CompileConfig,
  hostname: string,
): string | undefined {
  const full = hosts.map((host) => fullHost(host, meta.namespace, config.domainSuffix));
  return full.filter((host) => coversHost(host, hostname)).sort(compareHosts)[0];
}

/** The VirtualService of a namespace that is in force for a service. */
export function rulingVirtualService(
  mesh: Mesh,
  config: CompileConfig,
  service: KnownService,
  namespace: string,
): VirtualServiceObject | undefined {
  const key = hostKey(service.hostname, service.meta.namespace);
  let best: { readonly host: string; readonly object: VirtualServiceObject } | undefined;
  for (const object of new Set([
    ...mesh.virtualServicesByHost.get(key),
    ...mesh.virtualServicesWithWildcard,
  ])) {
    if (object.meta.namespace !== namespace || !isInMesh(object)) continue;
    const host = hostFor(object, config, service.hostname);
    if (host === undefined) continue;
    const order = best ? compareHosts(host, best.host) : -1;
    if (!best || order < 0 || (order === 0 && isOlder(object, best.object))) best = { host, object };
  }
  return best?.object;
}

/** Services that its hosts name, whether or not it is in force for them. */
export function servicesOfHosts(
  mesh: Mesh,
  config: CompileConfig,
  { hosts, meta }: VirtualServiceObject,
): readonly KnownService[] {
  const found = new Map<string, KnownService>();
  for (const host of hosts.map((one) => fullHost(one, meta.namespace, config.domainSuffix))) {
    const services = isWildcard(host)
      ? [...allServices(mesh, config)].filter(({ hostname }) => coversHost(host, hostname))
      : servicesNamed(mesh, config, host);
    for (const service of services) found.set(service.key, service);
  }
  return [...found.values()].sort((a, b) => (a.key < b.key ? -1 : 1));
}

export interface VirtualParent {
  readonly service: KnownService;
  readonly waypoint: string | undefined;
  /** Another namespace's, whose requests it would change: it is not told. */
  readonly refused: boolean;
}

function changesRequests({ rules }: VirtualServiceObject): boolean {
  return rules.some(({ filters, destinations }) =>
    [...filters, ...destinations.flatMap((destination) => destination.filters)].some(changesRequest),
  );
}

/** The services that it is in force for, with the waypoint of each. */
export function virtualParents(
  mesh: Mesh,
  config: CompileConfig,
  object: VirtualServiceObject,
): readonly VirtualParent[] {
  if (!isInMesh(object)) return [];
  return servicesOfHosts(mesh, config, object)
    .filter((service) => rulingVirtualService(mesh, config, service, object.meta.namespace) === object)
    .map((service) => {
      const binding = waypointOfService(mesh, service.meta);
      const refused = service.meta.namespace !== object.meta.namespace && changesRequests(object);
      return { service, waypoint: refused ? undefined : binding && bindingName(binding), refused };
    });
}

/** Where a destination leads; `requestPort` where it names no port and its service has several. */
export function destinationTarget(
  mesh: Mesh,
  config: CompileConfig,
  namespace: string,
  { host, port, subset }: Destination,
  requestPort: number,
): CompiledTarget {
  const service = serviceMeant(mesh, config, host, namespace);
  const [only, ...more] = service?.ports ?? [];
  const chosen = port ?? (more.length === 0 ? only : undefined) ?? requestPort;
  if (!service) return { service: undefined, port: chosen, invalid: `BackendNotFound: ${host}` };
  if (!service.ports.includes(chosen))
    return { service: undefined, port: chosen, invalid: `PortNotFound: ${host}:${chosen}` };
  return {
    service: service.key,
    port: chosen,
    ...(subset !== undefined && { subset }),
    invalid: undefined,
  };
}

function compileRule(rule: VirtualRule, target: (destination: Destination) => CompiledTarget): CompiledRule {
  const filter = (one: VirtualFilter): CompiledFilter =>
    one.type === "mirror" ? { ...one, backend: target(one.backend) } : one;
  return {
    name: rule.name,
    matches: rule.matches,
    filters: rule.filters.map(filter),
    backends: rule.destinations.map((destination) => ({
      target: target(destination),
      weight: destination.weight,
      filters: destination.filters.map(filter),
    })),
    timeouts: { requestMs: rule.timeoutMs, backendRequestMs: undefined },
    retry: rule.retry.attempts === 0 ? undefined : rule.retry,
  };
}

/** Whether where requests go depends on the port that they came to. */
function followsPort(mesh: Mesh, config: CompileConfig, object: VirtualServiceObject): boolean {
  const open = ({ host, port }: Destination): boolean =>
    port === undefined && (serviceMeant(mesh, config, host, object.meta.namespace)?.ports.length ?? 1) !== 1;
  return object.rules.some(
    ({ destinations, filters }) =>
      destinations.some(open) || filters.some((one) => one.type === "mirror" && open(one.backend)),
  );
}

/**
 * One resource for callers of all namespaces and one for those of its own, each once more for every port where
 * that decides. None where no host is a service behind a waypoint.
 */
export function compileVirtualService(
  mesh: Mesh,
  config: CompileConfig,
  object: VirtualServiceObject,
): readonly CompiledHttpRoute[] {
  const { namespace } = object.meta;
  const parents = virtualParents(mesh, config, object);
  const own = parents.filter(({ service }) => service.meta.namespace === namespace);
  const others = parents.filter(({ service, refused }) => service.meta.namespace !== namespace && !refused);
  return [
    ...compileFor(mesh, config, object, own, undefined),
    ...compileFor(mesh, config, object, others, namespace),
  ];
}

function compileFor(
  mesh: Mesh,
  config: CompileConfig,
  object: VirtualServiceObject,
  parents: readonly VirtualParent[],
  consumerNamespace: string | undefined,
): readonly CompiledHttpRoute[] {
  const waypoints = [...new Set(parents.flatMap(({ waypoint }) => waypoint ?? []))].sort();
  if (waypoints.length === 0) return [];
  const { namespace, name, createdAt } = object.meta;
  const source = `VirtualService/${namespace}/${name}`;
  const all = [...new Set(parents.flatMap(({ service }) => service.ports))].sort((a, b) => a - b);
  const ports = followsPort(mesh, config, object) ? all : [0];
  return ports.map((port) => ({
    type: "waypoint_config",
    kind: "http_route",
    name: `${source}${consumerNamespace === undefined ? "" : "/consumer"}${port === 0 ? "" : `/${port}`}`,
    waypoints,
    namespace,
    routeName: name,
    sourceObject: source,
    order: "IN_ORDER",
    createdMs: createdAt === undefined ? 0 : Date.parse(createdAt),
    parents: parents
      .filter(({ service }) => port === 0 || service.ports.includes(port))
      .map(({ service }) => ({ service: service.key, port })),
    // Inside the mesh it is the service that was connected to which decides, whatever host a request names.
    hostnames: [],
    consumerNamespace,
    rules: object.rules.map((rule) =>
      compileRule(rule, (destination) => destinationTarget(mesh, config, namespace, destination, port)),
    ),
  }));
}
