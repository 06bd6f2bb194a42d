/**
 * HTTPRoutes and GRPCRoutes for waypoints: those attached to Services (Gateway API for mesh, GEP-1426). A route in the
 * service's own namespace is the producer's, for every caller; in another it is the consumer's, for callers of
 * that namespace, and may not change requests: the producer's policies have judged them as they came. A backend that is not there, or not granted, takes its share of requests and answers 500.
 */
import { serviceKey } from "../../domain/ids.js";
import {
  type BackendRef,
  changesRequest,
  type ParentRef,
  type RouteFilter,
  type RouteObject,
} from "../../domain/http-route.js";
import type { Mesh } from "../../model/mesh.js";
import type { CompileConfig } from "../config.js";
import { serviceHostname } from "../service.js";
import { bindingName, waypointOfService } from "./binding.js";
import type { CompiledFilter, CompiledHttpRoute, CompiledTarget } from "./config.js";

export const routeGroup = "gateway.networking.k8s.io";

export type BackendProblem = "InvalidKind" | "RefNotPermitted" | "BackendNotFound" | "PortNotFound";

/** Whether a ReferenceGrant of the target's namespace lets routes of this one name it. */
function isGranted(mesh: Mesh, { kind, meta }: RouteObject, ref: BackendRef): boolean {
  const from = meta.namespace;
  if (from === ref.namespace) return true;
  for (const grant of mesh.referenceGrants.inNamespace(ref.namespace)) {
    const trusts = grant.from.some(
      (one) => one.group === routeGroup && one.kind === kind && one.namespace === from,
    );
    const names = grant.to.some(
      (one) => one.group === ref.group && one.kind === ref.kind && (one.name ?? ref.name) === ref.name,
    );
    if (trusts && names) return true;
  }
  return false;
}

/** Why a backend cannot be sent to, in Gateway API's words; undefined where it can. */
export function backendProblem(mesh: Mesh, route: RouteObject, ref: BackendRef): BackendProblem | undefined {
  if (ref.group !== "" || ref.kind !== "Service") return "InvalidKind";
  if (!isGranted(mesh, route, ref)) return "RefNotPermitted";
  const service = mesh.services.get(ref.namespace, ref.name);
  if (!service || service.type === "ExternalName") return "BackendNotFound";
  const known = service.ports.some(({ port, protocol }) => protocol === "TCP" && port === ref.port);
  return known ? undefined : "PortNotFound";
}

function targetOf(mesh: Mesh, config: CompileConfig, route: RouteObject, ref: BackendRef): CompiledTarget {
  const port = ref.port ?? 0;
  const problem = backendProblem(mesh, route, ref);
  if (problem !== undefined)
    return { service: undefined, port, invalid: `${problem}: ${ref.kind} ${ref.namespace}/${ref.name}` };
  const service = serviceKey(ref.namespace, serviceHostname(config, ref.namespace, ref.name));
  return { service, port, invalid: undefined };
}

export function isMeshParent({ group, kind }: ParentRef): boolean {
  return group === "" && kind === "Service";
}

interface Attachment {
  readonly parent: ParentRef;
  readonly waypoint: string | undefined;
  /** Another namespace's, whose requests the route would change: it is not told. */
  readonly refused: boolean;
}

function changesRequests({ rules }: RouteObject): boolean {
  return rules.some(({ filters, backends }) =>
    [...filters, ...backends.flatMap((backend) => backend.filters)].some(changesRequest),
  );
}

/** The parents that are services of the mesh, with the waypoint of each. */
export function attachments(mesh: Mesh, route: RouteObject): readonly Attachment[] {
  return route.parents.filter(isMeshParent).flatMap((parent) => {
    const service = mesh.services.get(parent.namespace, parent.name);
    if (!service || service.type === "ExternalName") return [];
    if (parent.port !== undefined && !service.ports.some(({ port }) => port === parent.port)) return [];
    const binding = waypointOfService(mesh, service.meta);
    const refused = parent.namespace !== route.meta.namespace && changesRequests(route);
    return [{ parent, waypoint: refused ? undefined : binding && bindingName(binding), refused }];
  });
}

/**
 * One resource for the producer's parents and one for the consumer's: they are for different callers. None
 * where no parent is a service behind a waypoint.
 */
export function compileHttpRoute(
  mesh: Mesh,
  config: CompileConfig,
  route: RouteObject,
): readonly CompiledHttpRoute[] {
  const attached = attachments(mesh, route);
  const { namespace } = route.meta;
  return [
    ...compileFor(
      mesh,
      config,
      route,
      attached.filter(({ parent }) => parent.namespace === namespace),
      undefined,
    ),
    ...compileFor(
      mesh,
      config,
      route,
      attached.filter(({ parent, refused }) => parent.namespace !== namespace && !refused),
      namespace,
    ),
  ];
}

function compileFor(
  mesh: Mesh,
  config: CompileConfig,
  route: RouteObject,
  attached: readonly Attachment[],
  consumerNamespace: string | undefined,
): readonly CompiledHttpRoute[] {
  const waypoints = [...new Set(attached.flatMap(({ waypoint }) => waypoint ?? []))].sort();
  if (waypoints.length === 0) return [];
  const { namespace, name, createdAt } = route.meta;
  const target = (ref: BackendRef): CompiledTarget => targetOf(mesh, config, route, ref);
  const filter = (one: RouteFilter): CompiledFilter =>
    one.type === "mirror" ? { ...one, backend: target(one.backend) } : one;
  const source = `${route.kind}/${namespace}/${name}`;
  return [
    {
      type: "waypoint_config",
      kind: "http_route",
      name: consumerNamespace === undefined ? source : `${source}/consumer`,
      waypoints,
      namespace,
      routeName: name,
      sourceObject: source,
      order: "MOST_SPECIFIC",
      createdMs: createdAt === undefined ? 0 : Date.parse(createdAt),
      parents: attached.map(({ parent }) => ({
        service: serviceKey(parent.namespace, serviceHostname(config, parent.namespace, parent.name)),
        port: parent.port ?? 0,
      })),
      // Gateway API: a route of a Service takes requests whatever host they name.
      hostnames: [],
      consumerNamespace,
      rules: route.rules.map(({ name: ruleName, matches, filters, backends, timeouts, retry }) => ({
        name: ruleName,
        matches,
        filters: filters.map(filter),
        backends: backends.map((backend) => ({
          target: target(backend),
          weight: backend.weight,
          filters: backend.filters.map(filter),
        })),
        timeouts,
        retry,
      })),
    },
  ];
}
