import { MeltemiError } from "../../domain/error.js";
import { canonicalIp, ipBytes } from "../../domain/ip.js";

/** The 4 or 16 bytes of an address. Throws `internal`: compiled addresses have been parsed. */
export function addressBytes(ip: string): Buffer {
  const bytes = ipBytes(ip);
  if (!bytes) throw new MeltemiError("internal", `compiled address "${ip}" is not an address`);
  return Buffer.from(bytes);
}

/** The text of 4 or 16 bytes; undefined for any other number of them. */
export function addressText(bytes: Uint8Array): string | undefined {
  if (bytes.length === 4) return bytes.join(".");
  if (bytes.length !== 16) return undefined;
  const groups: string[] = [];
  for (let index = 0; index < 16; index += 2)
    groups.push((((bytes[index] ?? 0) << 8) | (bytes[index + 1] ?? 0)).toString(16));
  return canonicalIp(groups.join(":"));
}
