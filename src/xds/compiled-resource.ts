import type { CompiledAddress, CompiledAuthorization } from "../compile/compiled.js";
import { addressKey } from "../domain/ids.js";
import { Authorization } from "../gen/istio/security/authorization.js";
import { Address, Workload } from "../gen/istio/workload/workload.js";
import { ambientForm } from "./ambient-form.js";
import { encodeAuthorization } from "./encode/authorization.js";
import { encodeResource, type EncodedResource } from "./encode/resource.js";
import { encodeService } from "./encode/service.js";
import { encodeWorkload } from "./encode/workload.js";
import {
  addressType,
  authorizationType,
  type AddressRange,
  type Dialect,
  type TypeUrl,
  workloadType,
  type XdsResource,
} from "./resource.js";

const none: readonly never[] = [];

/** A compiled value as a resource, encoded when first asked for and never again. */
export class CompiledResource implements XdsResource {
  readonly compiled: CompiledAddress | CompiledAuthorization;
  readonly name: string;
  readonly aliases: readonly string[];
  /** Per form; null: not sent in that form. */
  #own: EncodedResource | null | undefined;
  #foreign: EncodedResource | null | undefined;
  #workload: EncodedResource | null | undefined;

  constructor(compiled: CompiledAddress | CompiledAuthorization) {
    this.compiled = compiled;
    this.name = compiled.type === "workload" ? compiled.uid : compiled.key;
    this.aliases = aliasesOf(compiled);
  }

  get kind(): XdsResource["kind"] {
    return this.compiled.type;
  }

  get namespace(): string {
    return this.compiled.namespace;
  }

  get services(): readonly string[] {
    return this.compiled.type === "workload" ? [...this.compiled.services.keys()] : none;
  }

  get node(): string {
    return this.compiled.type === "workload" ? (this.compiled.node ?? "") : "";
  }

  get policies(): readonly string[] {
    return this.compiled.type === "workload" ? this.compiled.policies : none;
  }

  get scope(): XdsResource["scope"] {
    return this.compiled.type === "authorization" ? this.compiled.scope : undefined;
  }

  get ranges(): readonly AddressRange[] {
    if (this.compiled.type !== "service") return none;
    const ranges = this.compiled.addresses.filter((address) => address.length !== undefined);
    return ranges.map(({ network, ip, length }) => ({ network, address: ip, length: length ?? 0 }));
  }

  encoded(type: TypeUrl, dialect: Dialect): Buffer | undefined {
    return this.#form(type, dialect)?.bytes;
  }

  version(type: TypeUrl, dialect: Dialect): string {
    return this.#form(type, dialect)?.version ?? "";
  }

  #form(type: TypeUrl, dialect: Dialect): EncodedResource | null {
    if (type === workloadType) {
      if (this.#workload === undefined) this.#workload = this.#encode(type, dialect);
      return this.#workload;
    }
    if (type !== (this.kind === "authorization" ? authorizationType : addressType)) return null;
    // A workload says the same to everybody.
    if (dialect === "meltemi" || this.compiled.type === "workload") {
      if (this.#own === undefined) this.#own = this.#encode(type, dialect);
      return this.#own;
    }
    if (this.#foreign === undefined) this.#foreign = this.#encode(type, dialect);
    return this.#foreign;
  }

  #encode(type: TypeUrl, dialect: Dialect): EncodedResource | null {
    const value = this.#message(type, dialect);
    return value ? encodeResource(type, this.name, this.aliases, value) : null;
  }

  #message(type: TypeUrl, dialect: Dialect): Uint8Array | undefined {
    const { compiled } = this;
    switch (compiled.type) {
      case "workload": {
        const value = encodeWorkload(compiled);
        if (type === workloadType) return Workload.encode(value).finish();
        return Address.encode({ type: { $case: "workload", value } }).finish();
      }
      case "service": {
        if (type === workloadType) return undefined;
        return Address.encode({
          type: { $case: "service", value: encodeService(compiled, dialect) },
        }).finish();
      }
      case "authorization": {
        if (type === workloadType) return undefined;
        const own = encodeAuthorization(compiled);
        const value = dialect === "ambient" ? ambientForm(own) : own;
        return value ? Authorization.encode(value).finish() : undefined;
      }
    }
  }
}

function aliasesOf(compiled: CompiledAddress | CompiledAuthorization): readonly string[] {
  switch (compiled.type) {
    case "workload":
      // A host's address belongs to all pods of the host's network, and so to none.
      return compiled.hostNetwork ? none : compiled.ips.map((ip) => addressKey(compiled.network, ip));
    case "service": {
      const single = compiled.addresses.filter((address) => address.length === undefined);
      return single.map(({ network, ip }) => addressKey(network, ip));
    }
    case "authorization":
      return none;
  }
}
