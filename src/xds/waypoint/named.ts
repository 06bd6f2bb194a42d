/** Which services and workloads the waypoints' own configuration leads to: those they have to be told of. */
import type { CompiledChange, CompiledWorkload } from "../../compile/compiled.js";
import type {
  CompiledFilter,
  CompiledHttpRoute,
  CompiledTarget,
  CompiledWaypointConfig,
} from "../../compile/waypoint/config.js";
import type { ScopeChange } from "../resource.js";

/** Names of services and workloads that a waypoint with this configuration sends to, or takes connections for. */
export function namedBy(config: CompiledWaypointConfig): readonly string[] {
  switch (config.kind) {
    case "served":
      return [config.name];
    case "http_route":
      return targetsOf(config).flatMap(({ service }) => service ?? []);
    case "request_policy":
      return config.external ? [config.external.service] : [];
    case "request_authentication":
    case "key_set":
    case "traffic_policy":
    case "waypoint":
      return [];
  }
}

function targetsOf({ rules }: CompiledHttpRoute): readonly CompiledTarget[] {
  const mirrors = (filters: readonly CompiledFilter[]): CompiledTarget[] =>
    filters.flatMap((filter) => (filter.type === "mirror" ? [filter.backend] : []));
  return rules.flatMap(({ backends, filters }) => [
    ...mirrors(filters),
    ...backends.flatMap((backend) => [backend.target, ...mirrors(backend.filters)]),
  ]);
}

/** What one compiled value names, and to whom. */
interface Naming {
  readonly waypoints: readonly string[];
  readonly names: readonly string[];
}

const nothing: Naming = { waypoints: [], names: [] };

/** Adds up what the compiler says, and tells what that changes for each waypoint. */
export class NamedToWaypoints {
  readonly #namings = new Map<string, Naming>();
  /** Waypoint, name, and how many values name it. */
  readonly #counts = new Map<string, Map<string, number>>();

  apply(change: CompiledChange): readonly ScopeChange[] {
    const before = new Map<string, Map<string, boolean>>();
    const replace = (key: string, naming: Naming): void => {
      this.#count(naming, 1, before);
      this.#count(this.#namings.get(key) ?? nothing, -1, before);
      if (naming.names.length > 0) this.#namings.set(key, naming);
      else this.#namings.delete(key);
    };
    for (const config of change.configs)
      replace(`${config.kind} ${config.name}`, { waypoints: config.waypoints, names: namedBy(config) });
    for (const { kind, name } of change.removedConfigs) replace(`${kind} ${name}`, nothing);
    for (const address of change.addresses)
      if (address.type === "workload") replace(`instance ${address.uid}`, instanceOf(address));
    for (const name of change.removedAddresses) replace(`instance ${name}`, nothing);
    return [...before].flatMap(([waypoint, names]) => this.#difference(waypoint, names));
  }

  #difference(waypoint: string, before: ReadonlyMap<string, boolean>): ScopeChange[] {
    const now = (name: string): boolean => this.#counts.get(waypoint)?.has(name) ?? false;
    const changed = [...before].filter(([name, was]) => was !== now(name));
    const added = changed.flatMap(([name, was]) => (was ? [] : [name]));
    const removed = changed.flatMap(([name, was]) => (was ? [name] : []));
    return changed.length > 0 ? [{ waypoint, added, removed }] : [];
  }

  #count({ waypoints, names }: Naming, by: 1 | -1, before: Map<string, Map<string, boolean>>): void {
    for (const waypoint of names.length > 0 ? waypoints : []) {
      let counts = this.#counts.get(waypoint);
      if (!counts) this.#counts.set(waypoint, (counts = new Map<string, number>()));
      let earlier = before.get(waypoint);
      if (!earlier) before.set(waypoint, (earlier = new Map<string, boolean>()));
      for (const name of names) {
        const count = counts.get(name) ?? 0;
        if (!earlier.has(name)) earlier.set(name, count > 0);
        if (count + by > 0) counts.set(name, count + by);
        else counts.delete(name);
      }
      if (counts.size === 0) this.#counts.delete(waypoint);
    }
  }
}

/** A waypoint looks itself up: endpoints near to it come first. */
function instanceOf({ uid, waypointInstance }: CompiledWorkload): Naming {
  return waypointInstance === undefined ? nothing : { waypoints: [waypointInstance], names: [uid] };
}
