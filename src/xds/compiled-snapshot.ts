import type { CompiledChange } from "../compile/compiled.js";
import { CompiledResource } from "./compiled-resource.js";
import { ResourceCache } from "./resource-cache.js";

/** The control plane's source of resources: what the compiler last said. */
export class CompiledSnapshot extends ResourceCache {
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
    });
  }
}
