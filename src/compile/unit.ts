import type { MeshObject } from "../domain/objects.js";
import type { Mesh } from "../model/mesh.js";
import { compileAuthorization } from "./authorization.js";
import type { CompiledAddress, CompiledAuthorization } from "./compiled.js";
import type { CompileConfig } from "./config.js";
import { compilePeerAuthentication } from "./peer-authentication.js";
import { compileService } from "./service.js";
import { compileEntryEndpoints, compileServiceEntry } from "./service-entry.js";
import type { CompiledWaypointConfig } from "./waypoint/config.js";
import { compileGateway } from "./waypoint/gateway.js";
import { compileHttpRoute } from "./waypoint/http-route.js";
import { compileKeySet, compileRequestAuthentication } from "./waypoint/request-authentication.js";
import { compileRequestPolicy } from "./waypoint/request-policy.js";
import { knownEntryServices, knownService } from "./waypoint/known-service.js";
import { compileTrafficPolicy } from "./waypoint/traffic-policy.js";
import { compileVirtualService } from "./waypoint/virtual-service.js";
import { compilePod, compileSliceEndpoints, compileWorkloadEntry } from "./workload.js";

export type Compiled = CompiledAddress | CompiledAuthorization | CompiledWaypointConfig;

function list<T>(value: T | undefined): readonly T[] {
  return value === undefined ? [] : [value];
}

/** What one object becomes in the present mesh. */
export function compileUnit(mesh: Mesh, config: CompileConfig, object: MeshObject): readonly Compiled[] {
  switch (object.kind) {
    case "Pod":
      return list(compilePod(mesh, config, object));
    case "WorkloadEntry":
      return list(compileWorkloadEntry(mesh, config, object));
    case "Service": {
      const known = knownService(config, object);
      return [
        ...list(compileService(mesh, object, config)),
        ...list(known && compileTrafficPolicy(mesh, config, known)),
      ];
    }
    case "ServiceEntry":
      return [
        ...compileServiceEntry(mesh, object, config),
        ...compileEntryEndpoints(mesh, object, config),
        ...knownEntryServices(mesh, config, object).flatMap((known) =>
          list(compileTrafficPolicy(mesh, config, known)),
        ),
      ];
    case "VirtualService":
      return compileVirtualService(mesh, config, object);
    case "EndpointSlice":
      return compileSliceEndpoints(mesh, config, object);
    case "AuthorizationPolicy":
      return [
        ...list(compileAuthorization(object, config).compiled),
        ...compileRequestPolicy(mesh, config, object),
      ];
    case "RequestAuthentication":
      return compileRequestAuthentication(mesh, config, object);
    case "KeySet":
      return list(compileKeySet(mesh, config, object));
    case "PeerAuthentication":
      return list(compilePeerAuthentication(mesh, config, object));
    case "Gateway":
      return compileGateway(mesh, config, object);
    case "HTTPRoute":
    case "GRPCRoute":
      return compileHttpRoute(mesh, config, object);
    // The last three are parts of what they are for: policies that name a provider, services' traffic policies,
    // waypoints.
    case "Namespace":
    case "ServiceAccount":
    case "Node":
    case "ReferenceGrant":
    case "ConfigMap":
    case "DestinationRule":
    case "Telemetry":
      return [];
  }
}
