/**
 * Which waypoint takes whose connections (wire-contract.md, "Waypoint of a service account"). For a service:
 * its own label, then its namespace's. For a workload: its own label, its service account, the namespace.
 * The first found decides, and `none` ends the search.
 */
import { canonicalIp } from "../../domain/ip.js";
import type { GatewayObject, Meta } from "../../domain/objects.js";
import { type WaypointWish, waypointWish } from "../../domain/use-waypoint.js";
import { isWaypoint } from "../../domain/waypoint-class.js";
import type { Mesh } from "../../model/mesh.js";
import type { WaypointAddress } from "../compiled.js";
import type { CompileConfig } from "../config.js";

const waypointFor = "istio.io/waypoint-for";
const forServiceAccount = "istio.io/for-service-account";
const gatewayName = "gateway.networking.k8s.io/gateway-name";

export const waypointPort = 15008;

/** What a waypoint takes by its label; `service` where it says nothing, as in Istio. */
function takes(gateway: GatewayObject | undefined, what: "service" | "workload"): boolean {
  const value = gateway?.meta.labels.get(waypointFor) ?? "service";
  return value === "all" || value === what;
}

/** A waypoint by name. The Gateway may not be there: what wants it is refused until it is. */
export interface Binding {
  readonly namespace: string;
  readonly name: string;
  readonly gateway: GatewayObject | undefined;
}

export const bindingName = ({ namespace, name }: Binding): string => `${namespace}/${name}`;

function found(mesh: Mesh, wanted: WaypointWish | undefined): Binding | undefined {
  if (!wanted || wanted.none) return undefined;
  const gateway = mesh.gateways.get(wanted.namespace, wanted.name);
  // A Gateway of another class is another implementation's: nothing here can speak to it.
  return {
    namespace: wanted.namespace,
    name: wanted.name,
    gateway: gateway && isWaypoint(gateway) ? gateway : undefined,
  };
}

/** The waypoint of a service (or a ServiceEntry). */
export function waypointOfService(mesh: Mesh, { namespace, labels }: Meta): Binding | undefined {
  const wanted =
    waypointWish(labels, namespace) ??
    waypointWish(mesh.namespaces.get("", namespace)?.meta.labels, namespace);
  const binding = found(mesh, wanted);
  return binding && takes(binding.gateway, "service") ? binding : undefined;
}

/** The waypoint of a workload's own addresses. */
export function waypointOfWorkload(
  mesh: Mesh,
  namespace: string,
  labels: ReadonlyMap<string, string>,
  serviceAccount: string,
): Binding | undefined {
  // A waypoint does not pass itself.
  if (labels.has(gatewayName)) return undefined;
  const own = waypointWish(labels, namespace);
  if (own) return taking(found(mesh, own), true);
  for (const gateway of mesh.gateways.inNamespace(namespace)) {
    if (isWaypoint(gateway) && gateway.meta.annotations.get(forServiceAccount) === serviceAccount)
      return { namespace, name: gateway.meta.name, gateway };
  }
  const account = waypointWish(mesh.serviceAccounts.get(namespace, serviceAccount)?.meta.labels, namespace);
  if (account) return found(mesh, account);
  return taking(found(mesh, waypointWish(mesh.namespaces.get("", namespace)?.meta.labels, namespace)), false);
}

/** Of a waypoint that is not there it is not known what it takes: who names it himself waits for it. */
function taking(binding: Binding | undefined, unknown: boolean): Binding | undefined {
  if (!binding) return undefined;
  return (binding.gateway ? takes(binding.gateway, "workload") : unknown) ? binding : undefined;
}

export interface CompiledBinding {
  readonly waypoint: WaypointAddress | undefined;
  readonly servedBy: string | undefined;
}

/** Of a workload: the waypoint that it runs, as the controller of its Gateway labels it. */
export function instanceOf(
  namespace: string,
  labels: ReadonlyMap<string, string>,
): { readonly waypointInstance?: string } {
  const name = labels.get(gatewayName);
  return name === undefined ? {} : { waypointInstance: `${namespace}/${name}` };
}

export const unbound: CompiledBinding = { waypoint: undefined, servedBy: undefined };

export function compileBinding(config: CompileConfig, binding: Binding | undefined): CompiledBinding {
  return binding ? { waypoint: addressOf(config, binding), servedBy: bindingName(binding) } : unbound;
}

/** Where a binding's connections go. Without a Gateway's address: to a name that nothing answers to. */
function addressOf(config: CompileConfig, binding: Binding): WaypointAddress {
  const [address] = binding.gateway?.addresses ?? [];
  const ip = address === undefined ? undefined : canonicalIp(address);
  const { namespace, name } = binding;
  return {
    destination:
      ip === undefined
        ? {
            type: "hostname",
            namespace,
            hostname: address ?? `${name}.${namespace}.svc.${config.domainSuffix}`,
          }
        : { type: "address", network: config.network, ip },
    hbonePort: waypointPort,
  };
}
