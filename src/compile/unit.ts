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
import { compileRequestPolicy } from "./waypoint/request-policy.js";
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
    case "Service":
      return list(compileService(mesh, object, config));
    case "ServiceEntry":
      return [...compileServiceEntry(mesh, object, config), ...compileEntryEndpoints(mesh, object, config)];
    case "EndpointSlice":
      return compileSliceEndpoints(mesh, config, object);
    case "AuthorizationPolicy":
      return [
        ...list(compileAuthorization(object, config).compiled),
        ...list(compileRequestPolicy(mesh, config, object)),
      ];
    case "PeerAuthentication":
      return list(compilePeerAuthentication(mesh, config, object));
    case "Gateway":
      return compileGateway(mesh, config, object);
    case "HTTPRoute":
    case "GRPCRoute":
      return compileHttpRoute(mesh, config, object);
    case "Namespace":
    case "ServiceAccount":
    case "Node":
    case "ReferenceGrant":
      return [];
  }
}
