/**
 * Sysctls of mode `bpf`. With rule 101 every source of an arriving packet looks local: accept_local lets it in,
 * and the reverse-path check, which would call it a martian, is off. The guard drops what is truly spoofed.
 * The marks of exempt connections are inherited by accepted sockets and by answers that no socket sends.
 */
const everywhere: Readonly<Record<string, string>> = {
  "net/ipv4/conf/all/rp_filter": "0",
  "net/ipv4/tcp_fwmark_accept": "1",
  "net/ipv4/fwmark_reflect": "1",
  "net/ipv6/fwmark_reflect": "1",
};

/** The values that capture needs, by name below `net/`. */
export function captureSysctls(interfaces: readonly string[]): Readonly<Record<string, string>> {
  const each = interfaces.flatMap((name) => [
    [`net/ipv4/conf/${name}/accept_local`, "1"],
    [`net/ipv4/conf/${name}/rp_filter`, "0"],
  ]);
  return { ...everywhere, ...(Object.fromEntries(each) as Record<string, string>) };
}
