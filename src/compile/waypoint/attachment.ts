/** What policies of `security.istio.io` are attached to by `targetRefs`: waypoints, and services behind one. */
import { serviceKey } from "../../domain/ids.js";
import type { Meta, TargetRef } from "../../domain/objects.js";
import { isWaypoint, waypointClasses } from "../../domain/waypoint-class.js";
import type { Mesh } from "../../model/mesh.js";
import type { CompileConfig } from "../config.js";
import { serviceHostname } from "../service.js";
import { serviceEntryKeys } from "../service-entry.js";
import { bindingName, waypointOfService } from "./binding.js";
import type { PolicyTarget } from "./config.js";

interface Attached {
  readonly meta: Meta;
  readonly targetRefs: readonly TargetRef[];
}

/** One target reference. */
export interface Reach {
  readonly targets: readonly PolicyTarget[];
  readonly waypoints: readonly string[];
}

/** What each target reference reaches; nothing for one that leads nowhere, or to what passes no waypoint. */
export function reachOf(mesh: Mesh, config: CompileConfig, policy: Attached): readonly Reach[] {
  return policy.targetRefs.flatMap(
    (target) => reachOfTarget(mesh, config, policy.meta.namespace, target) ?? [],
  );
}

function reachOfTarget(
  mesh: Mesh,
  config: CompileConfig,
  namespace: string,
  { group, kind, name }: TargetRef,
): Reach | undefined {
  switch (`${group}/${kind}`) {
    case "gateway.networking.k8s.io/Gateway": {
      const gateway = mesh.gateways.get(namespace, name);
      if (!gateway || !isWaypoint(gateway)) return undefined;
      return { targets: [{ type: "waypoint" }], waypoints: [`${namespace}/${name}`] };
    }
    case "gateway.networking.k8s.io/GatewayClass": {
      // Only the root namespace speaks for all waypoints of a class (Istio).
      if (!config.rootNamespaces.includes(namespace) || !waypointClasses.has(name)) return undefined;
      const all = [...mesh.gateways.all()].filter(({ className }) => className === name);
      const waypoints = all.map(({ meta }) => `${meta.namespace}/${meta.name}`);
      return { targets: [{ type: "waypoint" }], waypoints };
    }
    case "/Service": {
      const service = mesh.services.get(namespace, name);
      const binding = service && waypointOfService(mesh, service.meta);
      if (!binding) return undefined;
      const key = serviceKey(namespace, serviceHostname(config, namespace, name));
      return { targets: [{ type: "service", service: key }], waypoints: [bindingName(binding)] };
    }
    case "networking.istio.io/ServiceEntry": {
      const entry = mesh.serviceEntries.get(namespace, name);
      const binding = entry && waypointOfService(mesh, entry.meta);
      if (!binding) return undefined;
      const keys = serviceEntryKeys(mesh, config, entry);
      return {
        targets: keys.map((service) => ({ type: "service", service })),
        waypoints: [bindingName(binding)],
      };
    }
    default:
      return undefined;
  }
}

/** The waypoints that a policy is told to, sorted. */
export function waypointsOf(reach: readonly Reach[]): readonly string[] {
  return [...new Set(reach.flatMap(({ waypoints }) => waypoints))].sort();
}

/** What is told of one policy to the same waypoints. */
export interface AttachedPart {
  /** Of the resource: `NAMESPACE/NAME`, or `NAMESPACE/NAME/services` for a second part. */
  readonly name: string;
  readonly waypoints: readonly string[];
  readonly targets: readonly PolicyTarget[];
}

/**
 * A policy for a whole waypoint and for a service behind another one is two: the other waypoint must not take it for
 * everything that it serves.
 */
export function partsOf(meta: Meta, reach: readonly Reach[]): readonly AttachedPart[] {
  const name = `${meta.namespace}/${meta.name}`;
  const isWhole = ({ targets }: Reach): boolean => targets.some(({ type }) => type === "waypoint");
  const whole = reach.filter(isWhole);
  const services = reach.filter((one) => !isWhole(one));
  const part = (of: readonly Reach[], partName: string): AttachedPart => ({
    name: partName,
    waypoints: waypointsOf(of),
    targets: of.flatMap(({ targets }) => targets),
  });
  const parts = [
    { ...part(whole, name), targets: [{ type: "waypoint" as const }] },
    part(services, whole.length > 0 ? `${name}/services` : name),
  ];
  return parts.filter(({ waypoints, targets }) => waypoints.length > 0 && targets.length > 0);
}
