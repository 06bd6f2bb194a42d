import { ipBytes } from "../../domain/ip.js";
import { ports } from "./marks.js";

/** States of /proc/net/tcp in which bytes may still come: ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING. */
const open = new Set(["01", "04", "05", "08", "09", "0B"]);
const captured: ReadonlySet<number> = new Set(Object.values(ports));

/**
 * The bytes of an address of /proc/net/tcp in the order of the wire, as hexadecimal digits: the file has each
 * four bytes as one number of this machine, which is little-endian. IPv4 in IPv6 is given as IPv4.
 */
export function wireHex(hex: string): string {
  const bytes = (hex.match(/.{8}/g) ?? [])
    .map((word) => (word.match(/../g) ?? []).reverse().join(""))
    .join("")
    .toLowerCase();
  return bytes.length === 32 && bytes.startsWith("00000000000000000000ffff") ? bytes.slice(24) : bytes;
}

/** An address in the form of `TcpEntry`. */
export const addressHex = (address: string): string =>
  (ipBytes(address) ?? []).map((byte) => byte.toString(16).padStart(2, "0")).join("");

/** A line of /proc/net/tcp or tcp6. */
export interface TcpEntry {
  /** As of `wireHex`. */
  readonly local: string;
  readonly localPort: number;
  readonly remote: string;
  readonly remotePort: number;
  readonly open: boolean;
}

/** Reads the text of /proc/net/tcp and tcp6, one after the other. */
export function readTcpTable(text: string): readonly TcpEntry[] {
  return text.split("\n").flatMap((line) => {
    const [, local = "", remote = "", state = ""] = line.trim().split(/\s+/);
    const [localHex = "", localPort = ""] = local.split(":");
    const [remoteHex = "", remotePort = ""] = remote.split(":");
    if (!/^[0-9A-F]{8,32}$/.test(localHex)) return [];
    return {
      local: wireHex(localHex),
      localPort: Number.parseInt(localPort, 16),
      remote: wireHex(remoteHex),
      remotePort: Number.parseInt(remotePort, 16),
      open: open.has(state),
    };
  });
}

const isLoopback = (address: string): boolean =>
  address.length === 8 ? address.startsWith("7f") : address === `${"0".repeat(31)}1`;

/**
 * Connections that the data plane carries: those on its ports, and those whose local address is not the
 * namespace's own, which only its transparent sockets have. One connection may count twice: what matters is zero.
 * @param own the namespace's addresses, as of `addressHex`
 */
export function countCarried(text: string, own: ReadonlySet<string>): number {
  return readTcpTable(text).filter(
    (entry) =>
      entry.open && (captured.has(entry.localPort) || !(own.has(entry.local) || isLoopback(entry.local))),
  ).length;
}
