import { canonicalIp } from "../domain/ip.js";
import { serviceEntryUid, serviceKey, type ServiceKey } from "../domain/ids.js";
import type { ServiceEntryObject, WorkloadEntrySpec } from "../domain/objects.js";
import { type Mesh, serviceAddresses } from "../model/mesh.js";
import { isOutranked } from "./address-claim.js";
import { canonicalName, canonicalRevision } from "./canonical.js";
import type { CompiledPort, CompiledService, CompiledWorkload } from "./compiled.js";
import type { CompileConfig } from "./config.js";
import { compileBinding, unbound, waypointOfService } from "./waypoint/binding.js";
import { splitLocality } from "./locality.js";
import { ownerInstead, ownsHost } from "./service-claim.js";
import { workloadPolicies } from "./workload-policies.js";

/** The services that an entry gives endpoints to: its hosts, except where a Service has the name. */
export function serviceEntryKeys(
  mesh: Mesh,
  config: CompileConfig,
  entry: ServiceEntryObject,
): readonly ServiceKey[] {
  const { namespace } = entry.meta;
  const suffix = `.${namespace}.svc.${config.domainSuffix}`;
  const isService = (host: string): boolean =>
    host.endsWith(suffix) && mesh.services.get(namespace, host.slice(0, -suffix.length)) !== undefined;
  return entry.hosts.filter((host) => !isService(host)).map((host) => serviceKey(namespace, host));
}

/** One service for each host; they share ports, endpoints, and the addresses that are not another's. */
export function compileServiceEntry(
  mesh: Mesh,
  entry: ServiceEntryObject,
  config: CompileConfig,
): readonly CompiledService[] {
  const { namespace, name } = entry.meta;
  const addresses = serviceAddresses(entry)
    .filter((address) => !ownerInstead(mesh, entry, address))
    .map(({ address, length, single }) => ({
      network: config.network,
      ip: address,
      length: single ? undefined : length,
    }));
  const ports: CompiledPort[] = entry.ports
    .filter(({ protocol }) => protocol === "TCP")
    .map(({ number, targetPort, appProtocol }) => ({ servicePort: number, targetPort, appProtocol }));
  return entry.hosts.map((hostname) => ({
    type: "service",
    key: serviceKey(namespace, hostname),
    name,
    namespace,
    hostname,
    addresses,
    ipFamilies: "any",
    ports,
    subjectAltNames: entry.subjectAltNames,
    ...compileBinding(config, waypointOfService(mesh, entry.meta)),
    // No endpoints of its own: connections go on to the address that was dialled.
    loadBalancing:
      entry.resolution === "NONE" ? { scopes: [], mode: "passthrough", allowUnhealthy: false } : undefined,
    clientIpAffinity: undefined,
    headless: false,
    canonical: ownsHost(mesh, config, entry, hostname),
    ingressUseWaypoint: false,
  }));
}

/** Ports of an endpoint: by the port's name where the endpoint names one, else the entry's target port. */
export function entryPorts(
  entry: ServiceEntryObject,
  endpoint: WorkloadEntrySpec | undefined,
): readonly CompiledPort[] {
  return entry.ports
    .filter(({ protocol }) => protocol === "TCP")
    .map(({ name, number, targetPort, appProtocol }) => ({
      servicePort: number,
      targetPort: endpoint?.ports.get(name) ?? targetPort,
      appProtocol,
    }));
}

/** Endpoints written in the entry itself that have an address; names are not resolved. */
export function compileEntryEndpoints(
  mesh: Mesh,
  entry: ServiceEntryObject,
  config: CompileConfig,
): readonly CompiledWorkload[] {
  const { namespace, name } = entry.meta;
  if (entry.resolution === "NONE") return [];
  const keys = serviceEntryKeys(mesh, config, entry);
  const workloads = new Map<string, CompiledWorkload>();
  for (const endpoint of entry.endpoints) {
    const ip = canonicalIp(endpoint.address);
    if (ip === undefined || workloads.has(ip)) continue;
    const labels = endpoint.labels.size > 0 ? endpoint.labels : entry.meta.labels;
    const ports = entryPorts(entry, endpoint);
    const hbone = endpoint.labels.get("networking.istio.io/tunnel") === "http";
    workloads.set(ip, {
      type: "workload",
      uid: serviceEntryUid(config.clusterId, namespace, name, ip),
      name,
      namespace,
      ips: [ip],
      network: endpoint.network || config.network,
      tunnel: hbone ? "hbone" : "none",
      trustDomain: config.trustDomain,
      serviceAccount: endpoint.serviceAccount,
      ...unbound,
      node: undefined,
      canonicalName: canonicalName(labels, name),
      canonicalRevision: canonicalRevision(labels),
      workloadType: "pod",
      workloadName: name,
      services: new Map(keys.map((key) => [key, ports])),
      policies: workloadPolicies(mesh, config, namespace, labels),
      healthy: true,
      clusterId: config.clusterId,
      locality: splitLocality(endpoint.locality),
      hostNetwork: isOutranked(mesh, entry, ip),
      capacity: endpoint.weight > 0 ? endpoint.weight : undefined,
    });
  }
  return [...workloads.values()];
}
