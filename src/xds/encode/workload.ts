import type { CompiledWorkload } from "../../compile/compiled.js";
import {
  NetworkMode,
  TunnelProtocol,
  type Workload,
  WorkloadStatus,
  WorkloadType,
  type PortList,
} from "../../gen/istio/workload/workload.js";
import { addressBytes } from "./bytes.js";
import { encodePort } from "./port.js";
import { encodeWaypoint } from "./waypoint.js";

const workloadTypes: Readonly<Record<CompiledWorkload["workloadType"], WorkloadType>> = {
  deployment: WorkloadType.DEPLOYMENT,
  cronjob: WorkloadType.CRONJOB,
  pod: WorkloadType.POD,
  job: WorkloadType.JOB,
};

export function encodeWorkload(workload: CompiledWorkload): Workload {
  const services: Record<string, PortList> = {};
  for (const [key, ports] of workload.services) services[key] = { ports: ports.map(encodePort) };
  const { region, zone, subzone } = workload.locality;
  return {
    uid: workload.uid,
    name: workload.name,
    namespace: workload.namespace,
    addresses: workload.ips.map(addressBytes),
    hostname: "",
    network: workload.network,
    tunnelProtocol: workload.tunnel === "hbone" ? TunnelProtocol.HBONE : TunnelProtocol.NONE,
    trustDomain: workload.trustDomain,
    serviceAccount: workload.serviceAccount,
    waypoint: encodeWaypoint(workload.waypoint),
    networkGateway: undefined,
    node: workload.node ?? "",
    canonicalName: workload.canonicalName,
    canonicalRevision: workload.canonicalRevision,
    workloadType: workloadTypes[workload.workloadType],
    workloadName: workload.workloadName,
    nativeTunnel: false,
    applicationTunnel: undefined,
    services,
    authorizationPolicies: [...workload.policies],
    status: workload.healthy ? WorkloadStatus.HEALTHY : WorkloadStatus.UNHEALTHY,
    clusterId: workload.clusterId,
    locality: region === "" && zone === "" && subzone === "" ? undefined : { region, zone, subzone },
    networkMode: workload.hostNetwork ? NetworkMode.HOST_NETWORK : NetworkMode.STANDARD,
    extensions: [],
    capacity: workload.capacity,
  };
}
