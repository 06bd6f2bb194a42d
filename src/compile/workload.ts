import { isLive, outranks } from "../domain/address-claim.js";
import { enrolment } from "../domain/enrolment.js";
import { canonicalIp } from "../domain/ip.js";
import { nodeName, podUid, serviceKey, type WorkloadUid, workloadEntryUid } from "../domain/ids.js";
import type { EndpointSliceObject, PodObject, WorkloadEntryObject } from "../domain/objects.js";
import type { Mesh } from "../model/mesh.js";
import { isOutranked, isPodAddress } from "./address-claim.js";
import { canonicalName, canonicalRevision, workloadOf } from "./canonical.js";
import type { CompiledWorkload } from "./compiled.js";
import type { CompileConfig } from "./config.js";
import { localityOfNode, splitLocality } from "./locality.js";
import { serviceHostname } from "./service.js";
import { compileBinding, instanceOf, unbound, waypointOfWorkload } from "./waypoint/binding.js";
import { workloadPolicies } from "./workload-policies.js";
import { isGone, servicesOfPod, servicesOfWorkloadEntry, slicePorts } from "./workload-services.js";

/** What speaks HBONE by itself says so. */
function tunnelsItself(labels: ReadonlyMap<string, string>): boolean {
  return labels.get("networking.istio.io/tunnel") === "http";
}

/** Another live pod that has the better claim to the address; a host's address is nobody's. */
export function rivalFor(mesh: Mesh, pod: PodObject, ip: string): PodObject | undefined {
  if (pod.hostNetwork) return undefined;
  for (const name of mesh.podsByIp.get(ip)) {
    const other = mesh.pods.named(name);
    if (other && other !== pod && isLive(other) && outranks(other, pod)) return other;
  }
  return undefined;
}

/** Undefined for a pod that has ended, has no address yet, or whose every address is another pod's. */
export function compilePod(mesh: Mesh, config: CompileConfig, pod: PodObject): CompiledWorkload | undefined {
  if (!isLive(pod)) return undefined;
  const ips = pod.ips.filter((ip) => !rivalFor(mesh, pod, ip));
  if (ips.length === 0) return undefined;
  const { namespace, name, labels } = pod.meta;
  const { services, ready } = servicesOfPod(mesh, config, pod);
  const enrolled = enrolment(pod, mesh.namespaces.get("", namespace), config.enrolment).enrolled;
  return {
    type: "workload",
    uid: podUid(config.clusterId, namespace, name),
    name,
    namespace,
    ips,
    network: config.network,
    tunnel: enrolled || tunnelsItself(labels) ? "hbone" : "none",
    trustDomain: config.trustDomain,
    serviceAccount: pod.serviceAccount,
    ...(enrolled
      ? compileBinding(config, waypointOfWorkload(mesh, namespace, labels, pod.serviceAccount))
      : unbound),
    ...instanceOf(namespace, labels),
    node: pod.nodeName === undefined ? undefined : nodeName(pod.nodeName),
    ...workloadOf(pod),
    canonicalName: canonicalName(labels, workloadOf(pod).workloadName),
    canonicalRevision: canonicalRevision(labels),
    services,
    policies: workloadPolicies(mesh, config, namespace, labels),
    healthy: pod.ready && !pod.terminating && ready,
    clusterId: config.clusterId,
    locality: localityOfNode(mesh, pod.nodeName),
    hostNetwork: pod.hostNetwork,
    capacity: undefined,
  };
}

/** Labels of the spec and of the object itself; the object's win. */
export function labelsOfEntry(entry: WorkloadEntryObject): ReadonlyMap<string, string> {
  const { labels } = entry.spec;
  return labels.size === 0 ? entry.meta.labels : new Map([...labels, ...entry.meta.labels]);
}

/** Undefined for an entry without an address: names are not resolved. */
export function compileWorkloadEntry(
  mesh: Mesh,
  config: CompileConfig,
  entry: WorkloadEntryObject,
): CompiledWorkload | undefined {
  const ip = canonicalIp(entry.spec.address);
  if (ip === undefined) return undefined;
  const { namespace, name, annotations } = entry.meta;
  const labels = labelsOfEntry(entry);
  const redirected = annotations.get("ambient.istio.io/redirection") === "enabled";
  return {
    type: "workload",
    uid: workloadEntryUid(config.clusterId, namespace, name),
    name,
    namespace,
    ips: [ip],
    network: entry.spec.network || config.network,
    tunnel: redirected || tunnelsItself(labels) ? "hbone" : "none",
    trustDomain: config.trustDomain,
    serviceAccount: entry.spec.serviceAccount,
    ...unbound,
    node: undefined,
    canonicalName: canonicalName(labels, name),
    canonicalRevision: canonicalRevision(labels),
    workloadType: "pod",
    workloadName: name,
    services: servicesOfWorkloadEntry(mesh, config, entry, labels),
    policies: workloadPolicies(mesh, config, namespace, labels),
    healthy: true,
    clusterId: config.clusterId,
    locality: splitLocality(entry.spec.locality),
    hostNetwork: isOutranked(mesh, entry, ip),
    capacity: entry.spec.weight > 0 ? entry.spec.weight : undefined,
  };
}

/** Endpoints of a slice that are no pod of the mesh: addresses outside, written by hand or by another controller. */
export function compileSliceEndpoints(
  mesh: Mesh,
  config: CompileConfig,
  slice: EndpointSliceObject,
): readonly CompiledWorkload[] {
  const { namespace, name } = slice.meta;
  const service = mesh.services.get(namespace, slice.serviceName);
  if (!service || service.type === "ExternalName" || slice.addressType === "FQDN") return [];
  const key = serviceKey(namespace, serviceHostname(config, namespace, slice.serviceName));
  const ports = slicePorts(service, slice);
  return slice.endpoints.flatMap((endpoint) => {
    const ip = canonicalIp(endpoint.addresses[0] ?? "");
    // What names a pod, or has a pod's address, is that pod: servicesOfPod takes it from there.
    if (endpoint.podName !== undefined || isGone(endpoint) || ip === undefined || isPodAddress(mesh, ip))
      return [];
    return [
      {
        type: "workload",
        uid: `${config.clusterId}/discovery.k8s.io/EndpointSlice/${namespace}/${name}/${ip}` as WorkloadUid,
        name,
        namespace,
        ips: [ip],
        network: config.network,
        tunnel: "none",
        trustDomain: config.trustDomain,
        serviceAccount: "default",
        ...unbound,
        node: undefined,
        canonicalName: slice.serviceName,
        canonicalRevision: "latest",
        workloadType: "pod",
        workloadName: name,
        services: new Map([[key, ports]]),
        policies: [],
        healthy: endpoint.ready,
        clusterId: config.clusterId,
        locality: { region: "", zone: endpoint.zone ?? "", subzone: "" },
        hostNetwork: isOutranked(mesh, slice, ip),
        capacity: undefined,
      } satisfies CompiledWorkload,
    ];
  });
}
