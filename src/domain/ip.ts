import type { Cidr, IpFamily } from "./objects.js";

const ipv4Octet = /^(?:0|[1-9]\d{0,2})$/;
const ipv6Group = /^[0-9a-fA-F]{1,4}$/;

/** The four octets of a dotted address without leading zeros, else undefined. */
function ipv4Octets(text: string): number[] | undefined {
  const parts = text.split(".");
  if (parts.length !== 4 || !parts.every((part) => ipv4Octet.test(part))) return undefined;
  const octets = parts.map(Number);
  return octets.every((octet) => octet <= 255) ? octets : undefined;
}

function ipv6Half(text: string): number[] | undefined {
  if (text === "") return [];
  const groups = text.split(":");
  return groups.every((group) => ipv6Group.test(group))
    ? groups.map((group) => parseInt(group, 16))
    : undefined;
}

/** The last 32 bits may be written as an IPv4 address (RFC 4291, section 2.2): as two groups. */
function withoutDottedTail(text: string): string | undefined {
  if (!text.includes(".")) return text;
  const start = text.lastIndexOf(":") + 1;
  const octets = ipv4Octets(text.slice(start));
  if (!octets) return undefined;
  const [a = 0, b = 0, c = 0, d = 0] = octets;
  return `${text.slice(0, start)}${((a << 8) | b).toString(16)}:${((c << 8) | d).toString(16)}`;
}

/** The eight groups of an IPv6 address, else undefined. What has a zone is no address of a mesh. */
function ipv6Groups(written: string): number[] | undefined {
  const text = withoutDottedTail(written);
  if (text === undefined) return undefined;
  const halves = text.split("::");
  if (halves.length > 2) return undefined;
  const head = ipv6Half(halves[0] ?? "");
  const tail = halves[1] === undefined ? undefined : ipv6Half(halves[1]);
  if (!head) return undefined;
  if (halves[1] === undefined) return head.length === 8 ? head : undefined;
  if (!tail || head.length + tail.length > 7) return undefined;
  return [...head, ...new Array<number>(8 - head.length - tail.length).fill(0), ...tail];
}

/** RFC 5952: lower case, no leading zeros, the first longest run of two or more zero groups shortened. */
function formatIpv6(groups: readonly number[]): string {
  let bestStart = -1;
  let bestLength = 1;
  for (let start = 0; start < 8; start++) {
    let length = 0;
    while (start + length < 8 && groups[start + length] === 0) length++;
    if (length > bestLength) [bestStart, bestLength] = [start, length];
  }
  const hex = groups.map((group) => group.toString(16));
  if (bestStart < 0) return hex.join(":");
  return `${hex.slice(0, bestStart).join(":")}::${hex.slice(bestStart + bestLength).join(":")}`;
}

function writtenBytes(text: string): readonly number[] | undefined {
  if (!text.includes(":")) return ipv4Octets(text);
  return ipv6Groups(text)?.flatMap((group) => [group >> 8, group & 0xff]);
}

const mappedPrefix: readonly number[] = [...new Array<number>(10).fill(0), 0xff, 0xff];

/** Whether the bytes are of an IPv4-mapped IPv6 address, `::ffff:0:0/96`. */
function isMapped(bytes: readonly number[]): boolean {
  return bytes.length === 16 && mappedPrefix.every((byte, index) => bytes[index] === byte);
}

/**
 * The bytes of an address: 4 or 16 of them; undefined where the text is not an address. An IPv4-mapped
 * IPv6 address is the IPv4 address that it stands for, as the ends of connections are: one host has one name.
 */
export function ipBytes(text: string): readonly number[] | undefined {
  const bytes = writtenBytes(text);
  return bytes && isMapped(bytes) ? bytes.slice(12) : bytes;
}

/** The family of an address in its one spelling. */
export function familyOf(ip: string): IpFamily {
  return ip.includes(":") ? "IPv6" : "IPv4";
}

/** The one way to write an address (RFC 5952 for IPv6), or undefined where the text is not an address. */
export function canonicalIp(text: string): string | undefined {
  if (!text.includes(":")) return ipv4Octets(text) && text;
  const bytes = ipBytes(text);
  return bytes && formatBytes(bytes);
}

function formatBytes(bytes: readonly number[]): string {
  if (bytes.length === 4) return bytes.join(".");
  const groups: number[] = [];
  for (let index = 0; index < 16; index += 2)
    groups.push(((bytes[index] ?? 0) << 8) | (bytes[index + 1] ?? 0));
  return formatIpv6(groups);
}

function masked(bytes: readonly number[], length: number): number[] {
  return bytes.map((byte, index) => byte & (0xff00 >> Math.min(8, Math.max(0, length - index * 8))) & 0xff);
}

/**
 * Parses `ADDRESS/LENGTH` or `ADDRESS` (a network of one). The answer is the network's own address:
 * host bits are cleared, and a network of IPv4-mapped addresses is the IPv4 network. Undefined where the
 * text is neither.
 */
export function parseCidr(text: string): Cidr | undefined {
  const slash = text.indexOf("/");
  const bytes = writtenBytes(slash < 0 ? text : text.slice(0, slash));
  if (!bytes) return undefined;
  const bits = bytes.length * 8;
  const lengthText = slash < 0 ? `${bits}` : text.slice(slash + 1);
  if (!/^(?:0|[1-9]\d{0,2})$/.test(lengthText) || Number(lengthText) > bits) return undefined;
  const length = Number(lengthText);
  const network = masked(bytes, length);
  return length >= 96 && isMapped(network)
    ? { address: formatBytes(network.slice(12)), length: length - 96 }
    : { address: formatBytes(network), length };
}

/** Whether the address lies in the network; false across families and for what is not an address. */
export function cidrContains(cidr: Cidr, ip: string): boolean {
  const network = ipBytes(cidr.address);
  const address = ipBytes(ip);
  if (!network || !address || network.length !== address.length) return false;
  const prefix = masked(network, cidr.length);
  return masked(address, cidr.length).every((byte, index) => byte === prefix[index]);
}

const special: readonly (readonly [network: string, what: string])[] = [
  ["0.0.0.0/32", "unspecified"],
  ["::/128", "unspecified"],
  ["127.0.0.0/8", "loopback"],
  ["::1/128", "loopback"],
  ["169.254.0.0/16", "link-local"],
  ["fe80::/10", "link-local"],
  ["224.0.0.0/4", "multicast"],
  ["ff00::/8", "multicast"],
];
const specialNetworks = special.flatMap(([text, what]) => {
  const network = parseCidr(text);
  return network ? [{ network, what }] : [];
});

/**
 * What makes an address mean something else to everybody who dials it, so that no pod or endpoint is known
 * by it; undefined for others. The same as the API server refuses in EndpointSlices.
 */
export function specialUse(ip: string): string | undefined {
  return specialNetworks.find(({ network }) => cidrContains(network, ip))?.what;
}
