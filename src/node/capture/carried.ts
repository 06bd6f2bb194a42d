import { ports } from "./ruleset.js";

/** States of /proc/net/tcp in which bytes may still come: ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING. */
const open = new Set(["01", "04", "05", "08", "09", "0B"]);
const captured: ReadonlySet<number> = new Set([ports.outbound, ports.inbound, ports.tunnel]);

/**
 * Connections on the data plane's ports in the text of /proc/net/tcp (and tcp6, where a listener on
 * `::` shows its IPv4 connections). The local address is the second column, `HEX:PORT` in hexadecimal.
 */
export function countCarried(text: string): number {
  let count = 0;
  for (const line of text.split("\n")) {
    const [, local = "", , state = ""] = line.trim().split(/\s+/);
    const port = Number.parseInt(local.slice(local.lastIndexOf(":") + 1), 16);
    if (open.has(state) && captured.has(port)) count += 1;
  }
  return count;
}
