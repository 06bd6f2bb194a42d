/** AuthorizationPolicies for waypoints: those attached by `targetRefs` to a waypoint, or to a service behind one. */
import { serviceKey } from "../../domain/ids.js";
import type { AuthorizationPolicyObject } from "../../domain/objects.js";
import { isWaypoint, waypointClasses } from "../../domain/waypoint-class.js";
import type { Mesh } from "../../model/mesh.js";
import type { CompileConfig } from "../config.js";
import { serviceHostname } from "../service.js";
import { bindingName, waypointOfService } from "./binding.js";
import type { CompiledRequestPolicy, PolicyTarget } from "./config.js";

interface Reach {
  readonly target: PolicyTarget;
  readonly waypoints: readonly string[];
}

/** What each target reference reaches; nothing for one that leads nowhere, or to what passes no waypoint. */
export function reachOf(
  mesh: Mesh,
  config: CompileConfig,
  policy: AuthorizationPolicyObject,
): readonly Reach[] {
  const { namespace } = policy.meta;
  return policy.targetRefs.flatMap(({ group, kind, name }): Reach[] => {
    switch (`${group}/${kind}`) {
      case "gateway.networking.k8s.io/Gateway": {
        const gateway = mesh.gateways.get(namespace, name);
        if (!gateway || !isWaypoint(gateway)) return [];
        return [{ target: { type: "waypoint" }, waypoints: [`${namespace}/${name}`] }];
      }
      case "gateway.networking.k8s.io/GatewayClass": {
        // Only the root namespace speaks for all waypoints of a class (Istio).
        if (!config.rootNamespaces.includes(namespace) || !waypointClasses.has(name)) return [];
        const all = [...mesh.gateways.all()].filter(({ className }) => className === name);
        return [
          {
            target: { type: "waypoint" },
            waypoints: all.map(({ meta }) => `${meta.namespace}/${meta.name}`),
          },
        ];
      }
      case "/Service": {
        const service = mesh.services.get(namespace, name);
        const binding = service && waypointOfService(mesh, service.meta);
        if (!binding) return [];
        const key = serviceKey(namespace, serviceHostname(config, namespace, name));
        return [{ target: { type: "service", service: key }, waypoints: [bindingName(binding)] }];
      }
      default:
        return [];
    }
  });
}

export function compileRequestPolicy(
  mesh: Mesh,
  config: CompileConfig,
  policy: AuthorizationPolicyObject,
): CompiledRequestPolicy | undefined {
  if (policy.targetRefs.length === 0) return undefined;
  const reach = reachOf(mesh, config, policy);
  const waypoints = [...new Set(reach.flatMap((one) => one.waypoints))].sort();
  if (waypoints.length === 0) return undefined;
  const { namespace, name } = policy.meta;
  return {
    type: "waypoint_config",
    kind: "request_policy",
    name: `${namespace}/${name}`,
    waypoints,
    namespace,
    policyName: name,
    sourceObject: `AuthorizationPolicy/${namespace}/${name}`,
    action: policy.action,
    provider: policy.provider ?? "",
    dryRun: policy.dryRun,
    targets: reach.map(({ target }) => target),
    rules: policy.rules,
  };
}
