/** Which objects must be compiled again when one changes: found through the model's indexes, never by looking at all. */
import type {
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
} from "../model/mesh.js";
import { selects } from "../domain/selector.js";
import type { CompileConfig } from "./config.js";
import { hasSelector } from "./peer-authentication.js";
import { serviceHostname } from "./service.js";
import { claimantsOf } from "./service-claim.js";
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
        return;
      case "EndpointSlice":
        this.#slice(object);
        return;
      case "ServiceEntry":
        this.#serviceEntry(object);
        if (object.workloadSelector) this.#selected(namespace, object.workloadSelector);
        return;
      case "WorkloadEntry":
        this.#claimants(entryAddresses(object));
        return;
      case "ServiceAccount":
        if (!sameLabels(before, after)) this.#podsIn(namespace);
        return;
      case "Gateway":
        this.#gateway(object);
        return;
      case "ReferenceGrant":
        for (const route of this.#mesh.routesByNamespace.get(namespace)) this.units.add(unitOf(route));
        return;
      case "HTTPRoute":
      case "GRPCRoute":
        return;
      case "AuthorizationPolicy":
        if (!object.selector) return;
        if (this.#isRoot(namespace)) this.#selectedAnywhere(object.selector);
        else this.#selected(namespace, object.selector);
        return;
      case "PeerAuthentication":
        this.#peerAuthentication(object);
        return;
    }
  }

  /** What may name the Gateway as its waypoint, wherever it is: Gateways come and go rarely. */
  #gateway(gateway: GatewayObject): void {
    for (const pod of this.#mesh.pods.all()) this.units.add(unitOf(pod));
    for (const service of this.#mesh.services.all()) this.#bound(service);
    for (const entry of this.#mesh.serviceEntries.all()) this.units.add(unitOf(entry));
    const { namespace, name } = gateway.meta;
    this.#attached(`Gateway/${namespace}/${name}`);
    for (const policy of this.#mesh.authorizationPolicies.all())
      if (policy.targetRefs.some(({ kind }) => kind === "GatewayClass")) this.units.add(unitOf(policy));
  }

  #servicesIn(namespace: string): void {
    for (const service of this.#mesh.services.inNamespace(namespace)) this.#bound(service);
    for (const entry of this.#mesh.serviceEntries.inNamespace(namespace)) this.units.add(unitOf(entry));
  }

  /** A service whose waypoint may be another one now, with the routes and policies that go with it. */
  #bound(service: ServiceObject): void {
    this.units.add(unitOf(service));
    this.#routed(service);
  }

  /** Routes that name a service, and policies attached to it. */
  #routed(service: ServiceObject): void {
    const { namespace, name } = service.meta;
    for (const route of this.#mesh.routesByService.get(`${namespace}/${name}`)) this.units.add(unitOf(route));
    this.#attached(`Service/${namespace}/${name}`);
  }

  #attached(target: string): void {
    for (const policy of this.#mesh.policiesByTarget.get(target)) this.units.add(unitOf(policy));
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
    if (pod.hostNetwork) return;
    for (const ip of pod.ips) for (const other of this.#mesh.podsByIp.get(ip)) this.units.add(`Pod/${other}`);
    this.#claimants(pod.ips);
    this.#drawnTo(pod.ips);
    // A waypoint that is a Pod is no workload of its Gateway's.
    for (const gateway of this.#mesh.gateways.all())
      if (gateway.netns !== undefined && gateway.addresses.some((ip) => pod.ips.includes(ip)))
        this.units.add(unitOf(gateway));
  }

  /** Entries that would draw connections to one of the addresses. */
  #drawnTo(ips: readonly string[]): void {
    for (const ip of ips) for (const entry of claimantsOf(this.#mesh, ip)) this.units.add(unitOf(entry));
  }

  #serviceEntry(entry: ServiceEntryObject): void {
    this.#claimants(entryAddresses(entry));
    for (const { key } of serviceAddresses(entry))
      for (const other of this.#mesh.entriesByServiceAddress.get(key)) this.units.add(unitOf(other));
    for (const host of entry.hosts)
      for (const other of this.#mesh.entriesByHostname.get(host)) this.units.add(unitOf(other));
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
