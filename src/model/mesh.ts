/**
 * The mesh as the user's objects describe it, with the indexes by which a change of one object leads
 * to what depends on it. No I/O; the state after a batch depends on the objects alone, not on their order.
 */
import { canonicalIp, ipBytes, parseCidr } from "../domain/ip.js";
import type {
  AuthorizationPolicyObject,
  Cidr,
  EndpointSliceObject,
  GatewayObject,
  MeshKind,
  MeshObject,
  NamespaceObject,
  NodeObject,
  PeerAuthenticationObject,
  PodObject,
  ServiceAccountObject,
  ServiceEntryObject,
  ServiceObject,
  WorkloadEntryObject,
} from "../domain/objects.js";
import type {
  BackendRef,
  GrpcRouteObject,
  HttpRouteObject,
  ReferenceGrantObject,
  RouteFilter,
  RouteObject,
} from "../domain/http-route.js";
import type { DestinationRuleObject } from "../domain/destination-rule.js";
import { hostKey, isWildcard } from "../domain/host-name.js";
import type { TelemetryObject } from "../domain/telemetry.js";
import { destinationsOf, type VirtualServiceObject } from "../domain/virtual-service.js";
import type { ConfigMapObject } from "../domain/mesh-config.js";
import {
  keySetsOf,
  type KeySetObject,
  type RequestAuthenticationObject,
} from "../domain/request-authentication.js";
import type { SourceEvent } from "../domain/source-event.js";
import { KeyIndex } from "./key-index.js";
import { SelectorIndex } from "./selector-index.js";

/** `NAMESPACE/NAME`; cluster-wide kinds have no namespace. */
export function nameOf(object: MeshObject): string {
  return `${object.meta.namespace}/${object.meta.name}`;
}

export interface ObjectChange {
  readonly before: MeshObject | undefined;
  readonly after: MeshObject | undefined;
}

/** The objects of one kind, by namespace and name. */
class Shelf<T extends MeshObject> {
  readonly #namespaces = new Map<string, Map<string, T>>();
  #size = 0;

  get size(): number {
    return this.#size;
  }

  get(namespace: string, name: string): T | undefined {
    return this.#namespaces.get(namespace)?.get(name);
  }

  /** By `NAMESPACE/NAME`. */
  named(key: string): T | undefined {
    const slash = key.indexOf("/");
    return this.get(key.slice(0, slash), key.slice(slash + 1));
  }

  *all(): Iterable<T> {
    for (const objects of this.#namespaces.values()) yield* objects.values();
  }

  inNamespace(namespace: string): Iterable<T> {
    return this.#namespaces.get(namespace)?.values() ?? [];
  }

  set(object: T): void {
    const { namespace, name } = object.meta;
    let objects = this.#namespaces.get(namespace);
    if (!objects) this.#namespaces.set(namespace, (objects = new Map<string, T>()));
    if (!objects.has(name)) this.#size += 1;
    objects.set(name, object);
  }

  delete(namespace: string, name: string): void {
    const objects = this.#namespaces.get(namespace);
    if (!objects?.delete(name)) return;
    this.#size -= 1;
    if (objects.size === 0) this.#namespaces.delete(namespace);
  }
}

export class Mesh {
  readonly namespaces = new Shelf<NamespaceObject>();
  readonly serviceAccounts = new Shelf<ServiceAccountObject>();
  readonly nodes = new Shelf<NodeObject>();
  readonly pods = new Shelf<PodObject>();
  readonly services = new Shelf<ServiceObject>();
  readonly slices = new Shelf<EndpointSliceObject>();
  readonly authorizationPolicies = new Shelf<AuthorizationPolicyObject>();
  readonly peerAuthentications = new Shelf<PeerAuthenticationObject>();
  readonly serviceEntries = new Shelf<ServiceEntryObject>();
  readonly workloadEntries = new Shelf<WorkloadEntryObject>();
  readonly gateways = new Shelf<GatewayObject>();
  readonly httpRoutes = new Shelf<HttpRouteObject>();
  readonly grpcRoutes = new Shelf<GrpcRouteObject>();
  readonly referenceGrants = new Shelf<ReferenceGrantObject>();
  readonly requestAuthentications = new Shelf<RequestAuthenticationObject>();
  readonly keySets = new Shelf<KeySetObject>();
  readonly configMaps = new Shelf<ConfigMapObject>();
  readonly telemetries = new Shelf<TelemetryObject>();
  readonly virtualServices = new Shelf<VirtualServiceObject>();
  readonly destinationRules = new Shelf<DestinationRuleObject>();

  /** Names of pods by address (not of those on their host's network: its address is nobody's), and by node. */
  readonly podsByIp = new KeyIndex<string>();
  readonly podsByNode = new KeyIndex<string>();
  /** Slices by the service's name, by the pods they name, and by the addresses they list without a pod's name. */
  readonly slicesByService = new KeyIndex<EndpointSliceObject>();
  readonly slicesByPod = new KeyIndex<EndpointSliceObject>();
  readonly slicesByIp = new KeyIndex<EndpointSliceObject>();
  /** WorkloadEntries, and ServiceEntries with endpoints of their own, by the addresses that they give. */
  readonly entriesByIp = new KeyIndex<WorkloadEntryObject | ServiceEntryObject>();
  /** ServiceEntries by `NAMESPACE/HOST`, and by the host in whatever namespace. */
  readonly entriesByHost = new KeyIndex<ServiceEntryObject>();
  readonly entriesByHostname = new KeyIndex<ServiceEntryObject>();
  /** What connections are drawn by: Services by cluster IP; ServiceEntries by `spec.addresses`, as `ADDRESS/LENGTH`. */
  readonly servicesByIp = new KeyIndex<ServiceObject>();
  readonly entriesByServiceAddress = new KeyIndex<ServiceEntryObject>();
  /** ServiceEntries that give a range of addresses: few. */
  readonly entriesWithRange = new Set<ServiceEntryObject>();
  readonly serviceSelectors = new SelectorIndex<ServiceObject>();
  readonly serviceEntrySelectors = new SelectorIndex<ServiceEntryObject>();
  readonly authorizationSelectors = new SelectorIndex<AuthorizationPolicyObject>();
  readonly peerSelectors = new SelectorIndex<PeerAuthenticationObject>();
  /** Routes by `NAMESPACE/NAME` of the services that they are attached to or send to, and by the namespaces of these. */
  readonly routesByService = new KeyIndex<RouteObject>();
  readonly routesByNamespace = new KeyIndex<RouteObject>();
  /** VirtualServices and DestinationRules by `hostKey` of the hosts that they are for, and those of wildcards: few. */
  readonly virtualServicesByHost = new KeyIndex<VirtualServiceObject>();
  readonly virtualServicesWithWildcard = new Set<VirtualServiceObject>();
  readonly virtualServicesByDestination = new KeyIndex<VirtualServiceObject>();
  readonly destinationRulesByHost = new KeyIndex<DestinationRuleObject>();
  readonly destinationRulesWithWildcard = new Set<DestinationRuleObject>();
  /** Policies by what they are attached to: `KIND/NAMESPACE/NAME`. */
  readonly policiesByTarget = new KeyIndex<AuthorizationPolicyObject | RequestAuthenticationObject>();
  /** Those with action CUSTOM: few. */
  readonly customPolicies = new Set<AuthorizationPolicyObject>();
  /** By the names of the key sets that they need. */
  readonly authenticationsByKeySet = new KeyIndex<RequestAuthenticationObject>();

  readonly #shelves: { readonly [Kind in MeshKind]: Shelf<Extract<MeshObject, { kind: Kind }>> } = {
    Namespace: this.namespaces,
    ServiceAccount: this.serviceAccounts,
    Node: this.nodes,
    Pod: this.pods,
    Service: this.services,
    EndpointSlice: this.slices,
    AuthorizationPolicy: this.authorizationPolicies,
    PeerAuthentication: this.peerAuthentications,
    ServiceEntry: this.serviceEntries,
    WorkloadEntry: this.workloadEntries,
    Gateway: this.gateways,
    HTTPRoute: this.httpRoutes,
    GRPCRoute: this.grpcRoutes,
    ReferenceGrant: this.referenceGrants,
    RequestAuthentication: this.requestAuthentications,
    KeySet: this.keySets,
    ConfigMap: this.configMaps,
    Telemetry: this.telemetries,
    VirtualService: this.virtualServices,
    DestinationRule: this.destinationRules,
  };

  /** Number of objects of each kind. */
  get counts(): Readonly<Record<MeshKind, number>> {
    const entries = Object.entries(this.#shelves).map(([kind, shelf]) => [kind, shelf.size]);
    return Object.fromEntries(entries) as Record<MeshKind, number>;
  }

  /** All objects, of every kind. */
  *objects(): Iterable<MeshObject> {
    for (const shelf of Object.values(this.#shelves)) yield* shelf.all();
  }

  get(kind: MeshKind, namespace: string, name: string): MeshObject | undefined {
    return this.#shelves[kind].get(namespace, name);
  }

  /** Applies events in order; several of one object count as one change. */
  apply(events: readonly SourceEvent[]): readonly ObjectChange[] {
    const changes = new Map<string, ObjectChange>();
    for (const event of events) {
      const { kind, namespace, name } =
        event.type === "remove" ? event : { kind: event.object.kind, ...event.object.meta };
      const before = this.get(kind, namespace, name);
      const after = event.type === "apply" ? event.object : undefined;
      if (!before && !after) continue;
      if (before) this.#unindex(before);
      if (after) this.#index(after);
      else this.#shelves[kind].delete(namespace, name);
      const key = `${kind}/${namespace}/${name}`;
      const earlier = changes.get(key);
      changes.set(key, { before: earlier ? earlier.before : before, after });
    }
    return [...changes.values()];
  }

  #index(object: MeshObject): void {
    const { namespace } = object.meta;
    const name = nameOf(object);
    // Each shelf takes exactly the kind it is filed under.
    (this.#shelves[object.kind] as Shelf<MeshObject>).set(object);
    switch (object.kind) {
      case "Pod":
        if (!object.hostNetwork) for (const ip of object.ips) this.podsByIp.add(ip, name);
        if (object.nodeName !== undefined) this.podsByNode.add(object.nodeName, name);
        return;
      case "Service":
        if (object.selector) this.serviceSelectors.set(namespace, name, object.selector, object);
        for (const ip of clusterIpsOf(object)) this.servicesByIp.add(ip, object);
        return;
      case "EndpointSlice":
        this.slicesByService.add(`${namespace}/${object.serviceName}`, object);
        for (const pod of podsOf(object)) this.slicesByPod.add(pod, object);
        for (const ip of addressesOf(object)) this.slicesByIp.add(ip, object);
        return;
      case "WorkloadEntry":
        for (const ip of entryAddresses(object)) this.entriesByIp.add(ip, object);
        return;
      case "ServiceEntry":
        for (const ip of entryAddresses(object)) this.entriesByIp.add(ip, object);
        for (const host of object.hosts) {
          this.entriesByHost.add(`${namespace}/${host}`, object);
          this.entriesByHostname.add(host, object);
        }
        for (const address of serviceAddresses(object)) {
          this.entriesByServiceAddress.add(address.key, object);
          if (!address.single) this.entriesWithRange.add(object);
        }
        if (object.workloadSelector) {
          this.serviceEntrySelectors.set(namespace, name, object.workloadSelector, object);
        }
        return;
      case "AuthorizationPolicy":
        if (object.selector) this.authorizationSelectors.set(namespace, name, object.selector, object);
        for (const target of targetsOf(object)) this.policiesByTarget.add(target, object);
        if (object.action === "CUSTOM") this.customPolicies.add(object);
        return;
      case "RequestAuthentication":
        for (const target of targetsOf(object)) this.policiesByTarget.add(target, object);
        for (const keys of keySetsOf(object)) this.authenticationsByKeySet.add(keys, object);
        return;
      case "HTTPRoute":
      case "GRPCRoute":
        for (const service of servicesOfRoute(object)) {
          this.routesByService.add(service, object);
          this.routesByNamespace.add(service.slice(0, service.indexOf("/")), object);
        }
        return;
      case "PeerAuthentication":
        if (object.selector) this.peerSelectors.set(namespace, name, object.selector, object);
        return;
      case "VirtualService":
        for (const host of object.hosts)
          if (isWildcard(host)) this.virtualServicesWithWildcard.add(object);
          else this.virtualServicesByHost.add(hostKey(host, namespace), object);
        for (const { host } of destinationsOf(object))
          this.virtualServicesByDestination.add(hostKey(host, namespace), object);
        return;
      case "DestinationRule":
        if (isWildcard(object.host)) this.destinationRulesWithWildcard.add(object);
        else this.destinationRulesByHost.add(hostKey(object.host, namespace), object);
        return;
      default:
    }
  }

  #unindex(object: MeshObject): void {
    const { namespace } = object.meta;
    const name = nameOf(object);
    switch (object.kind) {
      case "Pod":
        if (!object.hostNetwork) for (const ip of object.ips) this.podsByIp.delete(ip, name);
        if (object.nodeName !== undefined) this.podsByNode.delete(object.nodeName, name);
        return;
      case "Service":
        if (object.selector) this.serviceSelectors.delete(namespace, name, object.selector);
        for (const ip of clusterIpsOf(object)) this.servicesByIp.delete(ip, object);
        return;
      case "EndpointSlice":
        this.slicesByService.delete(`${namespace}/${object.serviceName}`, object);
        for (const pod of podsOf(object)) this.slicesByPod.delete(pod, object);
        for (const ip of addressesOf(object)) this.slicesByIp.delete(ip, object);
        return;
      case "WorkloadEntry":
        for (const ip of entryAddresses(object)) this.entriesByIp.delete(ip, object);
        return;
      case "ServiceEntry":
        for (const ip of entryAddresses(object)) this.entriesByIp.delete(ip, object);
        for (const host of object.hosts) {
          this.entriesByHost.delete(`${namespace}/${host}`, object);
          this.entriesByHostname.delete(host, object);
        }
        for (const { key } of serviceAddresses(object)) this.entriesByServiceAddress.delete(key, object);
        this.entriesWithRange.delete(object);
        if (object.workloadSelector)
          this.serviceEntrySelectors.delete(namespace, name, object.workloadSelector);
        return;
      case "AuthorizationPolicy":
        if (object.selector) this.authorizationSelectors.delete(namespace, name, object.selector);
        for (const target of targetsOf(object)) this.policiesByTarget.delete(target, object);
        this.customPolicies.delete(object);
        return;
      case "RequestAuthentication":
        for (const target of targetsOf(object)) this.policiesByTarget.delete(target, object);
        for (const keys of keySetsOf(object)) this.authenticationsByKeySet.delete(keys, object);
        return;
      case "HTTPRoute":
      case "GRPCRoute":
        for (const service of servicesOfRoute(object)) {
          this.routesByService.delete(service, object);
          this.routesByNamespace.delete(service.slice(0, service.indexOf("/")), object);
        }
        return;
      case "PeerAuthentication":
        if (object.selector) this.peerSelectors.delete(namespace, name, object.selector);
        return;
      case "VirtualService":
        this.virtualServicesWithWildcard.delete(object);
        for (const host of object.hosts) this.virtualServicesByHost.delete(hostKey(host, namespace), object);
        for (const { host } of destinationsOf(object))
          this.virtualServicesByDestination.delete(hostKey(host, namespace), object);
        return;
      case "DestinationRule":
        this.destinationRulesWithWildcard.delete(object);
        this.destinationRulesByHost.delete(hostKey(object.host, namespace), object);
        return;
      default:
    }
  }
}

/** `NAMESPACE/NAME` of the pods that a slice lists. */
export function podsOf(slice: EndpointSliceObject): readonly string[] {
  return slice.endpoints.flatMap(({ podName }) =>
    podName === undefined ? [] : [`${slice.meta.namespace}/${podName}`],
  );
}

/** The addresses of a slice's endpoints that name no pod. */
export function addressesOf(slice: EndpointSliceObject): readonly string[] {
  if (slice.addressType === "FQDN") return [];
  return slice.endpoints.flatMap(({ podName, addresses }) => {
    const ip = podName === undefined ? canonicalIp(addresses[0] ?? "") : undefined;
    return ip ?? [];
  });
}

/** The addresses that an entry's endpoints have; names are left out. */
export function entryAddresses(entry: WorkloadEntryObject | ServiceEntryObject): readonly string[] {
  const specs =
    entry.kind === "WorkloadEntry" ? [entry.spec] : entry.resolution === "NONE" ? [] : entry.endpoints;
  return specs.flatMap(({ address }) => canonicalIp(address) ?? []);
}

/** The addresses under which the mesh knows a Service; an ExternalName has none. */
export function clusterIpsOf(service: ServiceObject): readonly string[] {
  return service.type === "ExternalName" ? [] : service.clusterIps;
}

/** An address of `spec.addresses`: `key` is the one way to write it, `ADDRESS/LENGTH`. */
export interface ServiceAddress extends Cidr {
  readonly key: string;
  readonly single: boolean;
  readonly index: number;
}

/** What a ServiceEntry draws connections by. A range of one is the same as its address. */
export function serviceAddresses(entry: ServiceEntryObject): readonly ServiceAddress[] {
  return entry.addresses.flatMap((text, index) => {
    const cidr = parseCidr(text);
    if (!cidr) return [];
    const { address, length } = cidr;
    const single = length === (ipBytes(address)?.length ?? 0) * 8;
    return [{ address, length, key: `${address}/${length}`, single, index }];
  });
}

/** `KIND/NAMESPACE/NAME` of what a policy is attached to. */
export function targetsOf(
  policy: AuthorizationPolicyObject | RequestAuthenticationObject,
): readonly string[] {
  return policy.targetRefs.map(({ kind, name }) => `${kind}/${policy.meta.namespace}/${name}`);
}

/** `NAMESPACE/NAME` of the services that a route names, each once. */
export function servicesOfRoute(route: RouteObject): readonly string[] {
  const mirrored = (filters: readonly RouteFilter[]): readonly BackendRef[] =>
    filters.flatMap((filter) => (filter.type === "mirror" ? [filter.backend] : []));
  const refs = [
    ...route.parents,
    ...route.rules.flatMap(({ backends, filters }) => [
      ...backends,
      ...mirrored(filters),
      ...backends.flatMap((backend) => mirrored(backend.filters)),
    ]),
  ];
  const services = refs.filter(({ group, kind }) => group === "" && kind === "Service");
  return [...new Set(services.map(({ namespace, name }) => `${namespace}/${name}`))];
}
