import { MeltemiError } from "../domain/error.js";
import { canonicalIp } from "../domain/ip.js";
import { addressKey } from "../domain/ids.js";
import { Resource } from "../gen/envoy/service/discovery/v3/ads.js";
import { parseAddressName } from "./alias-index.js";
import type { DeltaRequest, DeltaResponse } from "./subscription.js";

/** Ways to write one address that one client may use: two of them are usual. */
const maxSpellings = 16;

/** The one way to write a `NETWORK/IP`; other names are as they are. */
export function canonicalName(name: string): string {
  const address = parseAddressName(name);
  const ip = address && canonicalIp(address.ip);
  return address && ip !== undefined && ip !== address.ip ? addressKey(address.network, ip) : name;
}

/**
 * One stream's names of addresses, where the client writes them in another way than we do (an IPv4-mapped
 * IPv6 address, upper case): inside they are one name, and the client is answered in its own words.
 */
export class Spellings {
  /** By our name: as the client wrote it, our own way included where it used that, too. */
  readonly #written = new Map<string, Set<string>>();

  /** The request in our names. `isAsked`: whether the client has asked for one of our names before. */
  ours(request: DeltaRequest, isAsked: (name: string) => boolean): DeltaRequest {
    const subscribe = request.subscribe.map((name) => this.#add(name, isAsked));
    const unsubscribe = request.unsubscribe.flatMap((name) => this.#delete(name));
    return { ...request, subscribe, unsubscribe };
  }

  /** The response in the client's names. */
  theirs(response: DeltaResponse): DeltaResponse {
    if (this.#written.size === 0) return response;
    return {
      ...response,
      removed: response.removed.flatMap((name) => [...(this.#written.get(name) ?? [name])]),
      resources: response.resources.map((bytes) => this.#withAliases(bytes)),
    };
  }

  #add(name: string, isAsked: (name: string) => boolean): string {
    const ours = canonicalName(name);
    const written = this.#written.get(ours);
    if (written) {
      if (written.add(name).size > maxSpellings)
        throw new MeltemiError("bad_input", `the client writes ${ours} in more than ${maxSpellings} ways`);
    } else if (ours !== name) this.#written.set(ours, new Set(isAsked(ours) ? [ours, name] : [name]));
    return ours;
  }

  /** What is no longer asked for in any way. */
  #delete(name: string): readonly string[] {
    const ours = canonicalName(name);
    const written = this.#written.get(ours);
    if (!written) return ours === name ? [name] : [];
    if (!written.delete(name) || written.size > 0) return [];
    this.#written.delete(ours);
    return [ours];
  }

  #withAliases(bytes: Buffer): Buffer {
    const { name, aliases } = Resource.decode(bytes);
    const more = [name, ...aliases].flatMap((one) => [...(this.#written.get(one) ?? [])]);
    const missing = more.filter((one) => one !== name && !aliases.includes(one));
    if (missing.length === 0) return bytes;
    // A repeated field may be continued: what is appended here is as if it had been encoded with the rest.
    return Buffer.concat([bytes, Resource.encode(Resource.fromPartial({ aliases: missing })).finish()]);
  }
}
