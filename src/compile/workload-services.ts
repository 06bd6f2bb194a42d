/** Which services a workload is an endpoint of, and on which ports. */
import { serviceKey, type ServiceKey } from "../domain/ids.js";
import type {
  EndpointSliceObject,
  PodObject,
  ServiceObject,
  SliceEndpoint,
  WorkloadEntryObject,
} from "../domain/objects.js";
import type { Mesh } from "../model/mesh.js";
import type { CompiledPort } from "./compiled.js";
import type { CompileConfig } from "./config.js";
import { serviceHostname } from "./service.js";
import { entryPorts, serviceEntryKeys } from "./service-entry.js";

export type WorkloadServices = ReadonlyMap<ServiceKey, readonly CompiledPort[]>;

const none: WorkloadServices = new Map();

function keyOf(service: ServiceObject, config: CompileConfig): ServiceKey {
  const { namespace, name } = service.meta;
  return serviceKey(namespace, serviceHostname(config, namespace, name));
}

/** Ports whose target the endpoint has; a named one that it lacks is left out. */
function selectedPorts(
  service: ServiceObject,
  named: (name: string) => number | undefined,
): readonly CompiledPort[] {
  return service.ports.flatMap(({ port, targetPort, protocol, appProtocol }) => {
    const target = typeof targetPort === "number" ? targetPort : named(targetPort);
    return protocol !== "TCP" || target === undefined
      ? []
      : [{ servicePort: port, targetPort: target, appProtocol }];
  });
}

/** The ports of an EndpointSlice's endpoint, paired with the service's by name. */
export function slicePorts(service: ServiceObject, slice: EndpointSliceObject): readonly CompiledPort[] {
  return service.ports.flatMap(({ name, port, protocol, appProtocol }) => {
    const target = slice.ports.find((one) => one.protocol === "TCP" && (one.name ?? "") === (name ?? ""));
    return protocol !== "TCP" || !target ? [] : [{ servicePort: port, targetPort: target.port, appProtocol }];
  });
}

/** An endpoint that neither is ready nor finishes what it has. */
export function isGone(endpoint: SliceEndpoint): boolean {
  return endpoint.terminating && !endpoint.serving;
}

function hasSlices(mesh: Mesh, service: ServiceObject): boolean {
  return mesh.slicesByService.get(`${service.meta.namespace}/${service.meta.name}`).size > 0;
}

/** Services that select by label and are not described by EndpointSlices. */
function* selecting(
  mesh: Mesh,
  namespace: string,
  labels: ReadonlyMap<string, string>,
): Iterable<ServiceObject> {
  for (const service of mesh.serviceSelectors.matching(namespace, labels)) {
    if (service.type !== "ExternalName" && !hasSlices(mesh, service)) yield service;
  }
}

function isEndpoint(pod: PodObject, slice: EndpointSliceObject, endpoint: SliceEndpoint): boolean {
  if (endpoint.podName === undefined)
    return !pod.hostNetwork && pod.ips.includes(endpoint.addresses[0] ?? "");
  return endpoint.podName === pod.meta.name && slice.meta.namespace === pod.meta.namespace;
}

/** Slices that name the pod, and those that list its address without saying whose it is. */
function slicesOf(mesh: Mesh, pod: PodObject): ReadonlySet<EndpointSliceObject> {
  const named = mesh.slicesByPod.get(`${pod.meta.namespace}/${pod.meta.name}`);
  if (pod.hostNetwork) return named;
  const listing = pod.ips.flatMap((ip) => [...mesh.slicesByIp.get(ip)]);
  return listing.length === 0 ? named : new Set([...named, ...listing]);
}

export interface PodServices {
  readonly services: WorkloadServices;
  /** What the EndpointSlices that list the pod say; true where none does. */
  readonly ready: boolean;
}

export function servicesOfPod(mesh: Mesh, config: CompileConfig, pod: PodObject): PodServices {
  const { namespace, labels } = pod.meta;
  const services = new Map<ServiceKey, readonly CompiledPort[]>();
  let ready = true;
  for (const slice of slicesOf(mesh, pod)) {
    const service = mesh.services.get(slice.meta.namespace, slice.serviceName);
    const endpoint = slice.endpoints.find((one) => isEndpoint(pod, slice, one));
    if (!service || service.type === "ExternalName" || !endpoint || isGone(endpoint)) continue;
    // A slice of another namespace may list the address; whether the pod takes requests is not for it to say.
    if (!endpoint.ready && slice.meta.namespace === namespace) ready = false;
    const key = keyOf(service, config);
    // A slice for each address family: the ports are the same.
    if (!services.has(key)) services.set(key, slicePorts(service, slice));
  }
  for (const service of selecting(mesh, namespace, labels)) {
    const named = (wanted: string): number | undefined =>
      pod.ports.find((port) => port.name === wanted && port.protocol === "TCP")?.port;
    services.set(keyOf(service, config), selectedPorts(service, named));
  }
  for (const entry of mesh.serviceEntrySelectors.matching(namespace, labels)) {
    for (const key of serviceEntryKeys(mesh, config, entry))
      if (!services.has(key)) services.set(key, entryPorts(entry, undefined));
  }
  return { services: services.size === 0 ? none : sorted(services), ready };
}

export function servicesOfWorkloadEntry(
  mesh: Mesh,
  config: CompileConfig,
  entry: WorkloadEntryObject,
  labels: ReadonlyMap<string, string>,
): WorkloadServices {
  const { namespace } = entry.meta;
  const services = new Map<ServiceKey, readonly CompiledPort[]>();
  for (const service of selecting(mesh, namespace, labels)) {
    services.set(
      keyOf(service, config),
      selectedPorts(service, (wanted) => entry.spec.ports.get(wanted)),
    );
  }
  for (const serviceEntry of mesh.serviceEntrySelectors.matching(namespace, labels)) {
    for (const key of serviceEntryKeys(mesh, config, serviceEntry)) {
      if (!services.has(key)) services.set(key, entryPorts(serviceEntry, entry.spec));
    }
  }
  return services.size === 0 ? none : sorted(services);
}

/** One order, whatever came first, so that equal contents are equal bytes on every replica. */
function sorted(services: Map<ServiceKey, readonly CompiledPort[]>): WorkloadServices {
  if (services.size < 2) return services;
  return new Map([...services].sort(([a], [b]) => (a < b ? -1 : 1)));
}
