/**
 * Who has an address that connections are drawn by, and the name of a host. Anybody may write another's
 * address into a ServiceEntry: that must draw nobody's clients to its endpoints.
 */
import { isLive } from "../domain/address-claim.js";
import { cidrContains } from "../domain/ip.js";
import type { PodObject, ServiceEntryObject, ServiceObject } from "../domain/objects.js";
import { isOlder } from "../domain/policy-age.js";
import { type Mesh, type ServiceAddress, nameOf, serviceAddresses } from "../model/mesh.js";
import type { CompileConfig } from "./config.js";
import { serviceHostname } from "./service.js";

export type AddressOwner = ServiceObject | PodObject | ServiceEntryObject;

function firstByName<T extends AddressOwner>(objects: Iterable<T>): T | undefined {
  let first: T | undefined;
  for (const object of objects) if (!first || nameOf(object) < nameOf(first)) first = object;
  return first;
}

function* livePods(mesh: Mesh, ip: string): Iterable<PodObject> {
  for (const name of mesh.podsByIp.get(ip)) {
    const pod = mesh.pods.named(name);
    if (pod && isLive(pod)) yield pod;
  }
}

function oldest(entries: Iterable<ServiceEntryObject>): ServiceEntryObject | undefined {
  let best: ServiceEntryObject | undefined;
  for (const entry of entries) if (!best || isOlder(entry, best)) best = entry;
  return best;
}

/** A Service or a pod in the range: data planes would find the range first. */
function ownerWithin(mesh: Mesh, range: ServiceAddress): AddressOwner | undefined {
  const services: ServiceObject[] = [];
  for (const ip of mesh.servicesByIp.keys())
    if (cidrContains(range, ip)) services.push(...mesh.servicesByIp.get(ip));
  const service = firstByName(services);
  if (service) return service;
  const pods: PodObject[] = [];
  for (const ip of mesh.podsByIp.keys()) if (cidrContains(range, ip)) pods.push(...livePods(mesh, ip));
  return firstByName(pods);
}

/**
 * Who has the address in an entry's stead, if anybody: a Service whose cluster IP it is, then a live pod,
 * then the oldest entry (by creation, else by name) of another namespace. Entries of one namespace share
 * an address. A range gives way to any Service and pod in it, and to an entry with the same range.
 */
export function ownerInstead(
  mesh: Mesh,
  entry: ServiceEntryObject,
  address: ServiceAddress,
): AddressOwner | undefined {
  const owner = address.single
    ? (firstByName(mesh.servicesByIp.get(address.address)) ?? firstByName(livePods(mesh, address.address)))
    : ownerWithin(mesh, address);
  if (owner) return owner;
  const first = oldest(mesh.entriesByServiceAddress.get(address.key));
  return first && first.meta.namespace !== entry.meta.namespace ? first : undefined;
}

/** The entries whose claim to an address depends on who else has this one. */
export function* claimantsOf(mesh: Mesh, ip: string): Iterable<ServiceEntryObject> {
  const bits = ip.includes(":") ? 128 : 32;
  yield* mesh.entriesByServiceAddress.get(`${ip}/${bits}`);
  for (const entry of mesh.entriesWithRange)
    if (serviceAddresses(entry).some((range) => cidrContains(range, ip))) yield entry;
}

/** Whether an entry's service is the one that a host names in the whole mesh: no Service's, and the oldest's. */
export function ownsHost(
  mesh: Mesh,
  config: CompileConfig,
  entry: ServiceEntryObject,
  host: string,
): boolean {
  const [name = "", namespace = ""] = host.split(".");
  if (host === serviceHostname(config, namespace, name) && mesh.services.get(namespace, name)) return false;
  return oldest(mesh.entriesByHostname.get(host))?.meta.namespace === entry.meta.namespace;
}
