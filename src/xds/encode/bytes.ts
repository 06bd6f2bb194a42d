import { MeltemiError } from "../../domain/error.js";
import { ipBytes, parseCidr } from "../../domain/ip.js";
import type { Cidr } from "../../domain/objects.js";

/** The 4 or 16 bytes of an address. Throws `internal`: compiled addresses have been parsed. */
export function addressBytes(ip: string): Buffer {
  const bytes = ipBytes(ip);
  if (!bytes) throw new MeltemiError("internal", `compiled address "${ip}" is not an address`);
  return Buffer.from(bytes);
}

/** The network that 4 or 16 bytes and a length in bits stand for; undefined where they stand for none. */
export function networkOf(bytes: Uint8Array, length: number): Cidr | undefined {
  if (bytes.length === 4) return parseCidr(`${bytes.join(".")}/${length}`);
  if (bytes.length !== 16) return undefined;
  const groups: string[] = [];
  for (let index = 0; index < 16; index += 2)
    groups.push((((bytes[index] ?? 0) << 8) | (bytes[index + 1] ?? 0)).toString(16));
  return parseCidr(`${groups.join(":")}/${length}`);
}
