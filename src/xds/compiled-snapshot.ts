import type { CompiledChange } from "../compile/compiled.js";
import { CompiledResource } from "./compiled-resource.js";
import { ResourceCache } from "./resource-cache.js";
import { NamedToWaypoints } from "./waypoint/named.js";

/** The control plane's source of resources: what the compiler last said. */
export class CompiledSnapshot extends ResourceCache {
  readonly #named = new NamedToWaypoints();

  constructor() {
    super("authoritative");
  }

  /** Applies one compiled batch. The first one is the complete first state. */
  applyChange(change: CompiledChange): void {
    this.apply({
      upsert: [...change.addresses, ...change.authorizations].map(
        (compiled) => new CompiledResource(compiled),
      ),
      removeAddresses: change.removedAddresses,
      removeAuthorizations: change.removedAuthorizations,
      waypoints: this.#named.apply(change),
    });
  }
}
