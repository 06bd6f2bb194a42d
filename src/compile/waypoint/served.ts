import type { AppProtocol } from "../../domain/objects.js";
import type { CompiledAddress, CompiledWorkload } from "../compiled.js";
import type { CompiledServed, CompiledServedPort } from "./config.js";

/** Only what is declared to be HTTP is read as such: nothing waits for a client that lets the server speak first. */
function servedPort(port: number, protocol: AppProtocol): CompiledServedPort {
  switch (protocol) {
    case "http":
      return { port, protocol: "http", http2Backend: false };
    case "http2":
    case "grpc":
      return { port, protocol: "http2", http2Backend: true };
    case "tcp":
    case "tls":
    case "unknown":
      return { port, protocol: "tcp", http2Backend: false };
  }
}

/** What the waypoint of a service or workload is told about it; undefined for one without. */
export function servedOf(address: CompiledAddress): CompiledServed | undefined {
  if (address.servedBy === undefined) return undefined;
  const service = address.type === "service";
  return {
    type: "waypoint_config",
    kind: "served",
    name: service ? address.key : address.uid,
    waypoints: [address.servedBy],
    served: address.type,
    ports: service
      ? address.ports.map(({ servicePort, appProtocol }) => servedPort(servicePort, appProtocol))
      : workloadPorts(address),
  };
}

/** A workload's ports are those at which its services reach it. */
function workloadPorts(workload: CompiledWorkload): readonly CompiledServedPort[] {
  const ports = new Map<number, AppProtocol>();
  for (const list of workload.services.values())
    for (const { targetPort, appProtocol } of list)
      if (!ports.has(targetPort)) ports.set(targetPort, appProtocol);
  return [...ports].sort(([a], [b]) => a - b).map(([port, protocol]) => servedPort(port, protocol));
}
