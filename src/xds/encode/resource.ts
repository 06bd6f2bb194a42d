import { createHash } from "node:crypto";
import { Resource } from "../../gen/envoy/service/discovery/v3/ads.js";

export interface EncodedResource {
  readonly version: string;
  /** The serialized `Resource`. */
  readonly bytes: Buffer;
}

/** Wraps a message's bytes; the version is a hash of them. */
export function encodeResource(
  typeUrl: string,
  name: string,
  aliases: readonly string[],
  value: Uint8Array,
): EncodedResource {
  const version = createHash("sha256").update(value).digest("base64url").slice(0, 16);
  const resource = {
    version,
    name,
    aliases: [...aliases],
    resource: { typeUrl, value: Buffer.from(value) },
    ttl: undefined,
  };
  return { version, bytes: Buffer.from(Resource.encode(resource).finish()) };
}
