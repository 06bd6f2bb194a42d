import { canonicalIp } from "../../domain/ip.js";
import type { WorkloadUid } from "../../domain/ids.js";
import type { GatewayObject } from "../../domain/objects.js";
import { isWaypoint } from "../../domain/waypoint-class.js";
import type { Mesh } from "../../model/mesh.js";
import type { CompiledWorkload } from "../compiled.js";
import type { CompileConfig } from "../config.js";
import { unbound } from "./binding.js";
import type { CompiledWaypoint } from "./config.js";
import { compileAccessLogging } from "./telemetry.js";

/**
 * A waypoint's own workload, where it is no Pod: the one that standalone runs in a namespace of its own. Its
 * service account has the Gateway's name, as a waypoint's on a cluster.
 */
function compileWaypointWorkload(
  mesh: Mesh,
  config: CompileConfig,
  gateway: GatewayObject,
): CompiledWorkload | undefined {
  if (gateway.netns === undefined) return undefined;
  const ips = gateway.addresses.flatMap((text) => canonicalIp(text) ?? []);
  if (ips.length === 0 || ips.some((ip) => mesh.podsByIp.get(ip).size > 0)) return undefined;
  const { namespace, name } = gateway.meta;
  return {
    type: "workload",
    uid: `${config.clusterId}/gateway.networking.k8s.io/Gateway/${namespace}/${name}` as WorkloadUid,
    name,
    namespace,
    ips,
    network: config.network,
    tunnel: "hbone",
    trustDomain: config.trustDomain,
    serviceAccount: name,
    ...unbound,
    waypointInstance: `${namespace}/${name}`,
    node: undefined,
    canonicalName: name,
    canonicalRevision: "latest",
    workloadType: "deployment",
    workloadName: name,
    services: new Map(),
    policies: [],
    healthy: true,
    clusterId: config.clusterId,
    locality: { region: "", zone: "", subzone: "" },
    hostNetwork: false,
    capacity: undefined,
  };
}

export function compileGateway(
  mesh: Mesh,
  config: CompileConfig,
  gateway: GatewayObject,
): readonly (CompiledWaypoint | CompiledWorkload)[] {
  if (!isWaypoint(gateway)) return [];
  const name = `${gateway.meta.namespace}/${gateway.meta.name}`;
  const workload = compileWaypointWorkload(mesh, config, gateway);
  return [
    {
      type: "waypoint_config",
      kind: "waypoint",
      name,
      waypoints: [name],
      accessLogging: compileAccessLogging(mesh, config, gateway),
    },
    ...(workload ? [workload] : []),
  ];
}
