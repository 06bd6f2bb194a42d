import type { WaypointAddress } from "../../compile/compiled.js";
import type { GatewayAddress } from "../../gen/istio/workload/workload.js";
import { addressBytes } from "./bytes.js";

export function encodeWaypoint(waypoint: WaypointAddress | undefined): GatewayAddress | undefined {
  if (!waypoint) return undefined;
  const { destination, hbonePort } = waypoint;
  switch (destination.type) {
    case "hostname":
      return {
        destination: {
          $case: "hostname",
          value: { namespace: destination.namespace, hostname: destination.hostname },
        },
        hboneMtlsPort: hbonePort,
      };
    case "address":
      return {
        destination: {
          $case: "address",
          value: { network: destination.network, address: addressBytes(destination.ip) },
        },
        hboneMtlsPort: hbonePort,
      };
  }
}
