import { MeltemiError } from "../domain/error.js";
import { Resource } from "../gen/envoy/service/discovery/v3/ads.js";
import { Authorization, Scope } from "../gen/istio/security/authorization.js";
import { Address, Workload, type NetworkAddress } from "../gen/istio/workload/workload.js";
import { ambientForm } from "./ambient-form.js";
import { encodeResource, type EncodedResource } from "./encode/resource.js";
import { networkOf } from "./encode/bytes.js";
import {
  addressType,
  authorizationType,
  type AddressRange,
  type Dialect,
  type TypeUrl,
  workloadType,
  type XdsResource,
} from "./resource.js";

type Facts = Pick<XdsResource, "kind" | "ranges" | "namespace" | "node" | "services" | "policies" | "scope">;

const scopes = new Map<Scope, NonNullable<XdsResource["scope"]>>([
  [Scope.GLOBAL, "global"],
  [Scope.NAMESPACE, "namespace"],
  [Scope.WORKLOAD_SELECTOR, "selector"],
]);

/** A resource as it came over the wire (in the `meltemi` dialect), served on without being taken apart. */
export class RelayedResource implements XdsResource {
  readonly type: typeof addressType | typeof authorizationType;
  readonly name: string;
  readonly aliases: readonly string[];
  readonly kind: XdsResource["kind"];
  readonly ranges: readonly AddressRange[];
  readonly namespace: string;
  readonly node: string;
  readonly services: readonly string[];
  readonly policies: readonly string[];
  readonly scope: XdsResource["scope"];
  readonly #own: EncodedResource;
  #foreign: EncodedResource | null | undefined;
  #workload: EncodedResource | null | undefined;

  /** Throws `bad_input` where the resource is not what its type says. */
  constructor(type: typeof addressType | typeof authorizationType, resource: Resource) {
    const value = resource.resource?.value;
    if (!value || resource.resource?.typeUrl !== type)
      throw new MeltemiError("bad_input", `resource ${resource.name} is not a ${type}`);
    const facts =
      type === addressType ? addressFacts(resource.name, value) : authorizationFacts(resource.name, value);
    this.type = type;
    this.name = resource.name;
    this.aliases = resource.aliases;
    this.kind = facts.kind;
    this.ranges = facts.ranges;
    this.namespace = facts.namespace;
    this.node = facts.node;
    this.services = facts.services;
    this.policies = facts.policies;
    this.scope = facts.scope;
    this.#own = { version: resource.version, bytes: Buffer.from(Resource.encode(resource).finish()) };
  }

  /** From what `bytes` gave. Throws `bad_input`. */
  static parse(type: typeof addressType | typeof authorizationType, bytes: Uint8Array): RelayedResource {
    let resource: Resource;
    try {
      resource = Resource.decode(bytes);
    } catch (error) {
      throw new MeltemiError("bad_input", "the bytes are not a discovery resource", { cause: error });
    }
    return new RelayedResource(type, resource);
  }

  /** The serialized `Resource`, to be stored. */
  get bytes(): Buffer {
    return this.#own.bytes;
  }

  encoded(type: TypeUrl, dialect: Dialect): Buffer | undefined {
    return this.#form(type, dialect)?.bytes;
  }

  version(type: TypeUrl, dialect: Dialect): string {
    return this.#form(type, dialect)?.version ?? "";
  }

  #form(type: TypeUrl, dialect: Dialect): EncodedResource | null {
    if (type === workloadType) {
      if (this.#workload === undefined) this.#workload = this.#asWorkload();
      return this.#workload;
    }
    if (type !== this.type) return null;
    if (dialect === "meltemi" || this.kind === "workload") return this.#own;
    if (this.#foreign === undefined) this.#foreign = this.#asAmbient();
    return this.#foreign;
  }

  #value(): Buffer {
    return Resource.decode(this.#own.bytes).resource?.value ?? Buffer.alloc(0);
  }

  #asWorkload(): EncodedResource | null {
    if (this.kind !== "workload") return null;
    const { type } = Address.decode(this.#value());
    if (type?.$case !== "workload") return null;
    return encodeResource(workloadType, this.name, this.aliases, Workload.encode(type.value).finish());
  }

  #asAmbient(): EncodedResource | null {
    if (this.type === authorizationType) {
      const form = ambientForm(Authorization.decode(this.#value()));
      return form && encodeResource(this.type, this.name, this.aliases, Authorization.encode(form).finish());
    }
    const { type } = Address.decode(this.#value());
    if (type?.$case !== "service") return this.#own;
    const value = { ...type.value, extensions: [] };
    return encodeResource(
      this.type,
      this.name,
      this.aliases,
      Address.encode({ type: { $case: "service", value } }).finish(),
    );
  }
}

function decoded<T>(name: string, decode: () => T): T {
  try {
    return decode();
  } catch (error) {
    throw new MeltemiError("bad_input", `resource ${name} does not parse`, { cause: error });
  }
}

function addressFacts(name: string, value: Uint8Array): Facts {
  const { type } = decoded(name, () => Address.decode(value));
  switch (type?.$case) {
    case "workload": {
      const { namespace, node, services, authorizationPolicies } = type.value;
      return {
        kind: "workload",
        ranges: [],
        namespace,
        node,
        services: Object.keys(services),
        policies: authorizationPolicies,
        scope: undefined,
      };
    }
    case "service": {
      const ranges = type.value.addresses.flatMap(rangeOf);
      return {
        kind: "service",
        ranges,
        namespace: type.value.namespace,
        node: "",
        services: [],
        policies: [],
        scope: undefined,
      };
    }
    default:
      throw new MeltemiError("bad_input", `resource ${name} is neither a workload nor a service`);
  }
}

function rangeOf(address: NetworkAddress): AddressRange[] {
  const cidr = address.length === undefined ? undefined : networkOf(address.address, address.length);
  return cidr ? [{ network: address.network, ...cidr }] : [];
}

function authorizationFacts(name: string, value: Uint8Array): Facts {
  const { namespace, scope } = decoded(name, () => Authorization.decode(value));
  const known = scopes.get(scope);
  if (!known) throw new MeltemiError("bad_input", `authorization ${name} has an unknown scope`);
  return { kind: "authorization", ranges: [], namespace, node: "", services: [], policies: [], scope: known };
}
