/**
 * Addresses by which a process reaches its own node and what trusts that: loopback, link-local (where clouds answer
 * with a node's credentials, in IPv6 also at fd00:ec2::254) and the unspecified ones, which lead to loopback.
 */
import { BlockList, isIP } from "node:net";

export function nodeAddresses(): BlockList {
  const list = new BlockList();
  list.addSubnet("0.0.0.0", 8, "ipv4");
  list.addSubnet("127.0.0.0", 8, "ipv4");
  list.addSubnet("169.254.0.0", 16, "ipv4");
  list.addAddress("::", "ipv6");
  list.addAddress("::1", "ipv6");
  list.addSubnet("fe80::", 10, "ipv6");
  list.addAddress("fd00:ec2::254", "ipv6");
  return list;
}

/** Whether the text is an address of the list; with a zone or brackets, too. A name is not. */
export function isListed(list: BlockList, text: string): boolean {
  const [address = ""] = text.replace(/^\[(.*)\]$/, "$1").split("%");
  const version = isIP(address);
  return version !== 0 && list.check(address, version === 6 ? "ipv6" : "ipv4");
}
