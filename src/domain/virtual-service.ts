/** Istio's VirtualService as Meltemi understands it: what it says of requests inside the mesh. */
import type { RouteFilter, RouteMatch, RouteRetry } from "./http-route.js";
import type { Meta } from "./objects.js";

/** A service, by the host name that an object writes, and perhaps a version of it. */
export interface Destination {
  readonly host: string;
  readonly subset: string | undefined;
  /** Undefined: the service's only port, or the one that the request came to. */
  readonly port: number | undefined;
}

export interface WeightedDestination extends Destination {
  readonly weight: number;
  readonly filters: readonly VirtualFilter[];
}

export type VirtualFilter = RouteFilter<Destination>;

/** Rules are tried in the order written; the first whose match holds decides. */
export interface VirtualRule {
  readonly name: string;
  readonly matches: readonly RouteMatch[];
  readonly filters: readonly VirtualFilter[];
  /** None where a filter answers. */
  readonly destinations: readonly WeightedDestination[];
  /** Milliseconds; 0 and undefined: none. */
  readonly timeoutMs: number | undefined;
  readonly retry: RouteRetry;
}

export interface VirtualServiceObject {
  readonly kind: "VirtualService";
  readonly meta: Meta;
  readonly hosts: readonly string[];
  /** Whether it is for traffic inside the mesh, and not for gateways alone. */
  readonly forMesh: boolean;
  /** Empty: every namespace. */
  readonly exportTo: readonly string[];
  /** Those for the mesh. */
  readonly rules: readonly VirtualRule[];
}

/** Every destination that it names: of rules and of mirrors. */
export function destinationsOf({ rules }: VirtualServiceObject): readonly Destination[] {
  const mirrored = (filters: readonly VirtualFilter[]): readonly Destination[] =>
    filters.flatMap((filter) => (filter.type === "mirror" ? [filter.backend] : []));
  return rules.flatMap(({ filters, destinations }) => [
    ...destinations,
    ...mirrored(filters),
    ...destinations.flatMap((one) => mirrored(one.filters)),
  ]);
}
