import { absent, chain, firstSegment } from "../nftables/words.js";
import { tokenWrite, type ProbeToken } from "./token.js";

/** A pod whose host-side traffic is marked. */
export interface ProbedPod {
  readonly inode: number;
  readonly addresses: readonly string[];
  readonly token: ProbeToken;
}

/** Several agents may share one namespace: each has its own table. */
export const hostTable = (node: string): string => `meltemi-host-${node}`;

/**
 * Input of `nft -f -`: the table of the host's namespace. `meta skuid` is known only of a packet that a socket of
 * this very namespace sends: what is forwarded, from another pod or with the node's address, has none.
 */
export function hostScript(node: string, pods: readonly ProbedPod[]): string {
  const name = hostTable(node);
  if (pods.length === 0) return `${absent(name).join("\n")}\n`;
  const jumps = (family: "v4" | "v6"): readonly string[] =>
    pods.flatMap(({ inode, addresses }) =>
      addresses
        .filter((address) => address.includes(":") === (family === "v6"))
        .map((address) => `${address} : jump pod-${inode}-${family}`),
    );
  const dispatch = (family: "v4" | "v6", field: string): readonly string[] => {
    const entries = jumps(family);
    return entries.length === 0
      ? []
      : [`${firstSegment} meta skuid >= 0 ${field} vmap { ${entries.join(", ")} }`];
  };
  return [
    ...absent(name),
    `table inet ${name} {`,
    ...pods.flatMap(({ inode, token }) => {
      const write = tokenWrite(token);
      return (["v4", "v6"] as const).map((family) => `  chain pod-${inode}-${family} { ${write[family]}; }`);
    }),
    // After every translation of addresses: the pod's own is known then.
    ...chain("probes", "filter hook postrouting priority 300", [
      'oif "lo" accept',
      ...dispatch("v4", "ip daddr"),
      ...dispatch("v6", "ip6 daddr"),
    ]),
    "}",
    "",
  ].join("\n");
}
