/** Which objects must be compiled again when one changes: found through the model's indexes, never by looking at all. */
import type { DestinationRuleObject } from "../domain/destination-rule.js";
import { fullHost, hostKey, isWildcard } from "../domain/host-name.js";
import type { RouteObject } from "../domain/http-route.js";
import { keySetsOf, type RequestAuthenticationObject } from "../domain/request-authentication.js";
import type {
  AuthorizationPolicyObject,
  EndpointSliceObject,
  GatewayObject,
  MeshKind,
  MeshObject,
  NamespaceObject,
  PeerAuthenticationObject,
  PodObject,
  ServiceEntryObject,
  ServiceObject,
} from "../domain/objects.js";
import {
  addressesOf,
  clusterIpsOf,
  entryAddresses,
  type Mesh,
  nameOf,
  type ObjectChange,
  podsOf,
  serviceAddresses,
  servicesOfRoute,
} from "../model/mesh.js";
import { destinationsOf, type VirtualServiceObject } from "../domain/virtual-service.js";
import { selects } from "../domain/selector.js";
import type { CompileConfig } from "./config.js";
import { hasSelector } from "./peer-authentication.js";
import { serviceHostname } from "./service.js";
import { claimantsOf } from "./service-claim.js";
import { servicesNamed } from "./waypoint/known-service.js";
import { labelsOfEntry } from "./workload.js";

/** `KIND/NAMESPACE/NAME` of an object, which is also what it is compiled under. */
export type UnitKey = `${MeshKind}/${string}`;

export function unitOf(object: MeshObject): UnitKey {
  return `${object.kind}/${nameOf(object)}`;
}

export class Affected {
  readonly units = new Set<UnitKey>();
  readonly #mesh: Mesh;
  readonly #config: CompileConfig;

  constructor(mesh: Mesh, config: CompileConfig) {
    this.#mesh = mesh;
    this.#config = config;
  }

  /** Adds what depends on the change. The model has already taken it. */
  add({ before, after }: ObjectChange): void {
    for (const object of [before, after]) {
      if (!object) continue;
      this.units.add(unitOf(object));
      this.#dependents(object, before, after);
    }
  }

  #dependents(object: MeshObject, before: MeshObject | undefined, after: MeshObject | undefined): void {
    const { namespace, name } = object.meta;
    switch (object.kind) {
      case "Pod":
        this.#pod(object);
        return;
      case "Namespace":
        if (sameLabels(before, after)) return;
        this.#podsIn(name);
        this.#servicesIn(name);
        return;
      case "Node":
        for (const pod of this.#mesh.podsByNode.get(name)) this.units.add(`Pod/${pod}`);
        return;
      case "Service":
        this.#service(object);
        this.#custom();
        return;
      case "EndpointSlice":
        this.#slice(object);
        return;
      case "ServiceEntry":
        this.#serviceEntry(object);
        this.#attached(`ServiceEntry/${namespace}/${name}`);
        this.#custom();
        if (object.workloadSelector) this.#selected(namespace, object.workloadSelector);
        return;
      case "WorkloadEntry":
        this.#claimants(entryAddresses(object));
        this.#versioned(namespace, labelsOfEntry(object));
        return;
      case "ServiceAccount":
        if (!sameLabels(before, after)) this.#podsIn(namespace);
        return;
      case "Gateway":
        this.#gateway(object);
        return;
      case "ReferenceGrant":
        for (const route of this.#mesh.routesByNamespace.get(namespace)) this.#route(route);
        return;
      case "HTTPRoute":
      case "GRPCRoute":
        this.#route(object);
        return;
      case "VirtualService":
        this.#rivals(object);
        return;
      case "DestinationRule":
        this.#ruled(object);
        return;
      case "AuthorizationPolicy":
        if (!object.selector) return;
        if (this.#isRoot(namespace)) this.#selectedAnywhere(object.selector);
        else this.#selected(namespace, object.selector);
        return;
      case "PeerAuthentication":
        this.#peerAuthentication(object);
        return;
      case "RequestAuthentication":
        this.#policy(object);
        return;
      case "ConfigMap":
        this.#custom();
        return;
      case "Telemetry":
        for (const gateway of this.#mesh.gateways.all()) this.units.add(unitOf(gateway));
        return;
      case "KeySet":
        return;
    }
  }

  /** What may name the Gateway as its waypoint, wherever it is: Gateways come and go rarely. */
  #gateway(gateway: GatewayObject): void {
    for (const pod of this.#mesh.pods.all()) this.units.add(unitOf(pod));
    for (const service of this.#mesh.services.all()) this.#bound(service);
    for (const entry of this.#mesh.serviceEntries.all()) this.#boundEntry(entry);
    const { namespace, name } = gateway.meta;
    this.#attached(`Gateway/${namespace}/${name}`);
    for (const shelf of [this.#mesh.authorizationPolicies, this.#mesh.requestAuthentications])
      for (const policy of shelf.all())
        if (policy.targetRefs.some((target) => target.kind === "GatewayClass")) this.#policy(policy);
  }

  #servicesIn(namespace: string): void {
    for (const service of this.#mesh.services.inNamespace(namespace)) this.#bound(service);
    for (const entry of this.#mesh.serviceEntries.inNamespace(namespace)) this.#boundEntry(entry);
  }

  /** A service whose waypoint may be another one now, with the routes and policies that go with it. */
  #bound(service: ServiceObject): void {
    this.units.add(unitOf(service));
    this.#routed(service);
  }

  /** Routes that name a service, and policies attached to it. */
  #routed(service: ServiceObject): void {
    const { namespace, name } = service.meta;
    for (const route of this.#mesh.routesByService.get(`${namespace}/${name}`)) this.#route(route);
    this.#attached(`Service/${namespace}/${name}`);
    this.#named(`${namespace}/${name}`);
  }

  #boundEntry(entry: ServiceEntryObject): void {
    this.units.add(unitOf(entry));
    for (const host of entry.hosts) this.#named(hostKey(host, entry.meta.namespace));
    this.#attached(`ServiceEntry/${entry.meta.namespace}/${entry.meta.name}`);
  }

  /** VirtualServices that name a host, as their own or as a destination. */
  #named(host: string): void {
    for (const object of this.#mesh.virtualServicesByHost.get(host)) this.#virtualService(object);
    for (const object of this.#mesh.virtualServicesByDestination.get(host)) this.#virtualService(object);
    for (const object of this.#mesh.virtualServicesWithWildcard) this.#virtualService(object);
  }

  /** A route, and the services whose traffic policy its waypoints are told. */
  #route(route: RouteObject): void {
    this.units.add(unitOf(route));
    if (this.#mesh.destinationRules.size === 0) return;
    for (const service of servicesOfRoute(route)) {
      const found = this.#mesh.services.named(service);
      if (found) this.units.add(unitOf(found));
    }
  }

  #virtualService(object: VirtualServiceObject): void {
    this.units.add(unitOf(object));
    if (this.#mesh.destinationRules.size === 0) return;
    for (const { host } of destinationsOf(object)) this.#services(host, object.meta.namespace);
  }

  /** VirtualServices that may be in force in this one's place, or it in theirs. */
  #rivals(object: VirtualServiceObject): void {
    this.#virtualService(object);
    const { namespace } = object.meta;
    for (const host of object.hosts) {
      if (isWildcard(host)) for (const other of this.#mesh.virtualServices.all()) this.#virtualService(other);
      else this.#named(hostKey(host, namespace));
    }
  }

  /** Services that a rule may be for. */
  #ruled(rule: DestinationRuleObject): void {
    const { host, meta } = rule;
    if (!isWildcard(host)) {
      this.#services(host, meta.namespace);
      return;
    }
    for (const service of this.#mesh.services.all()) this.units.add(unitOf(service));
    for (const entry of this.#mesh.serviceEntries.all()) this.units.add(unitOf(entry));
  }

  /** Services of a host as an object of a namespace names it. */
  #services(host: string, namespace: string): void {
    const full = fullHost(host, namespace, this.#config.domainSuffix);
    for (const { object } of servicesNamed(this.#mesh, this.#config, full)) this.units.add(unitOf(object));
  }

  /** Services that have a workload with these labels among their versions. */
  #versioned(namespace: string, labels: ReadonlyMap<string, string>): void {
    if (this.#mesh.destinationRules.size === 0) return;
    for (const service of this.#mesh.serviceSelectors.matching(namespace, labels))
      this.units.add(unitOf(service));
    for (const entry of this.#mesh.serviceEntrySelectors.matching(namespace, labels))
      this.units.add(unitOf(entry));
  }

  #attached(target: string): void {
    for (const policy of this.#mesh.policiesByTarget.get(target)) this.#policy(policy);
  }

  /** A policy, and the keys that are told to where it is. */
  #policy(policy: AuthorizationPolicyObject | RequestAuthenticationObject): void {
    this.units.add(unitOf(policy));
    if (policy.kind === "RequestAuthentication")
      for (const name of keySetsOf(policy)) this.units.add(`KeySet//${name}`);
  }

  /** Policies that ask external authorizers, whose services may be others now. */
  #custom(): void {
    for (const policy of this.#mesh.customPolicies) this.units.add(unitOf(policy));
  }

  #peerAuthentication(policy: PeerAuthenticationObject): void {
    const { namespace } = policy.meta;
    const selector = hasSelector(policy) ? policy.selector : undefined;
    // In a root namespace a selector is not read.
    if (this.#isRoot(namespace)) {
      if (!selector) this.#everything();
    } else if (selector) this.#selected(namespace, selector);
    else this.#namespace(namespace);
  }

  #isRoot(namespace: string): boolean {
    return this.#config.rootNamespaces.includes(namespace);
  }

  #pod(pod: PodObject): void {
    const { namespace, labels } = pod.meta;
    this.#versioned(namespace, labels);
    if (this.#mesh.destinationRules.size > 0) this.#listing(pod);
    if (pod.hostNetwork) return;
    for (const ip of pod.ips) for (const other of this.#mesh.podsByIp.get(ip)) this.units.add(`Pod/${other}`);
    this.#claimants(pod.ips);
    this.#drawnTo(pod.ips);
    // A waypoint that is a Pod is no workload of its Gateway's.
    for (const gateway of this.#mesh.gateways.all())
      if (gateway.netns !== undefined && gateway.addresses.some((ip) => pod.ips.includes(ip)))
        this.units.add(unitOf(gateway));
  }

  /** Services whose EndpointSlices decide which pods are theirs: all of the namespace are candidates for a version. */
  #listing(pod: PodObject): void {
    const { namespace, name } = pod.meta;
    const slices = [
      ...this.#mesh.slicesByPod.get(`${namespace}/${name}`),
      ...pod.ips.flatMap((ip) => [...this.#mesh.slicesByIp.get(ip)]),
    ];
    for (const slice of slices) {
      const service = this.#mesh.services.get(slice.meta.namespace, slice.serviceName);
      if (service) this.units.add(unitOf(service));
    }
  }

  /** Entries that would draw connections to one of the addresses. */
  #drawnTo(ips: readonly string[]): void {
    for (const ip of ips) for (const entry of claimantsOf(this.#mesh, ip)) this.units.add(unitOf(entry));
  }

  #serviceEntry(entry: ServiceEntryObject): void {
    this.#claimants(entryAddresses(entry));
    for (const { key } of serviceAddresses(entry))
      for (const other of this.#mesh.entriesByServiceAddress.get(key)) this.units.add(unitOf(other));
    for (const host of entry.hosts) {
      for (const other of this.#mesh.entriesByHostname.get(host)) this.units.add(unitOf(other));
      this.#named(hostKey(host, entry.meta.namespace));
    }
  }

  /** What else gives one of the addresses, below pods. */
  #claimants(ips: readonly string[]): void {
    for (const ip of ips) {
      for (const entry of this.#mesh.entriesByIp.get(ip)) this.units.add(unitOf(entry));
      for (const slice of this.#mesh.slicesByIp.get(ip)) this.units.add(unitOf(slice));
    }
  }

  #service(service: ServiceObject): void {
    const { namespace, name } = service.meta;
    this.#routed(service);
    this.#drawnTo(clusterIpsOf(service));
    for (const entry of this.#mesh.entriesByHostname.get(serviceHostname(this.#config, namespace, name)))
      this.units.add(unitOf(entry));
    // An entry of the same host gives way to the service, and its endpoints with it.
    for (const entry of this.#mesh.entriesByHost.get(
      `${namespace}/${serviceHostname(this.#config, namespace, name)}`,
    )) {
      this.units.add(unitOf(entry));
      if (entry.workloadSelector) this.#selected(namespace, entry.workloadSelector);
    }
    const slices = this.#mesh.slicesByService.get(nameOf(service));
    for (const slice of slices) {
      this.units.add(unitOf(slice));
      this.#listed(slice);
    }
    if (slices.size === 0 && service.selector) this.#selected(service.meta.namespace, service.selector);
  }

  #slice(slice: EndpointSliceObject): void {
    this.#listed(slice);
    this.#claimants(addressesOf(slice));
    // The first slice of a service and the last one decide whether its selector counts.
    const { namespace } = slice.meta;
    const service = this.#mesh.services.get(namespace, slice.serviceName);
    if (service && this.#mesh.destinationRules.size > 0) this.units.add(unitOf(service));
    const slices = this.#mesh.slicesByService.get(`${namespace}/${slice.serviceName}`);
    if (service?.selector && slices.size <= 1) this.#selected(namespace, service.selector);
  }

  #listed(slice: EndpointSliceObject): void {
    for (const pod of podsOf(slice)) this.units.add(`Pod/${pod}`);
    for (const ip of addressesOf(slice))
      for (const pod of this.#mesh.podsByIp.get(ip)) this.units.add(`Pod/${pod}`);
  }

  #podsIn(namespace: string): void {
    for (const pod of this.#mesh.pods.inNamespace(namespace)) this.units.add(unitOf(pod));
  }

  /** Workloads of a namespace with these labels. */
  #selected(namespace: string, selector: ReadonlyMap<string, string>): void {
    for (const pod of this.#mesh.pods.inNamespace(namespace)) {
      if (selects(selector, pod.meta.labels)) this.units.add(unitOf(pod));
    }
    for (const entry of this.#mesh.workloadEntries.inNamespace(namespace)) {
      if (selects(selector, labelsOfEntry(entry))) this.units.add(unitOf(entry));
    }
    this.#entries(this.#mesh.serviceEntries.inNamespace(namespace));
  }

  #selectedAnywhere(selector: ReadonlyMap<string, string>): void {
    for (const pod of this.#mesh.pods.all())
      if (selects(selector, pod.meta.labels)) this.units.add(unitOf(pod));
    for (const entry of this.#mesh.workloadEntries.all()) {
      if (selects(selector, labelsOfEntry(entry))) this.units.add(unitOf(entry));
    }
    this.#entries(this.#mesh.serviceEntries.all());
  }

  #namespace(namespace: string): void {
    this.#podsIn(namespace);
    for (const entry of this.#mesh.workloadEntries.inNamespace(namespace)) this.units.add(unitOf(entry));
    for (const policy of this.#mesh.peerAuthentications.inNamespace(namespace))
      this.units.add(unitOf(policy));
    this.#entries(this.#mesh.serviceEntries.inNamespace(namespace));
  }

  #everything(): void {
    for (const shelf of [this.#mesh.pods, this.#mesh.workloadEntries, this.#mesh.peerAuthentications]) {
      for (const object of shelf.all()) this.units.add(unitOf(object));
    }
    this.#entries(this.#mesh.serviceEntries.all());
  }

  /** Entries with endpoints of their own, which policies may select. */
  #entries(entries: Iterable<MeshObject>): void {
    for (const entry of entries) {
      if (entry.kind === "ServiceEntry" && entry.endpoints.length > 0) this.units.add(unitOf(entry));
    }
  }
}

function sameLabels(before: MeshObject | undefined, after: MeshObject | undefined): boolean {
  const labels = (object: MeshObject | undefined): NamespaceObject["meta"]["labels"] =>
    object?.meta.labels ?? new Map();
  return labels(before).size === labels(after).size && selects(labels(before), labels(after));
}
