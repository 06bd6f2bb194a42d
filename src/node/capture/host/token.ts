import type { Random } from "../../../platform/random.js";
import { firstSegment } from "../nftables/words.js";

/**
 * What the host writes into the first segment of a connection that one of its own processes makes to a pod, and
 * the pod's guard looks for: fields that mean nothing there (the identification of a packet that may not be
 * fragmented, or the flow label; the urgent pointer without its flag). A mark does not cross into another
 * namespace, and an address proves nothing; these cannot be guessed in fewer than 2^31 attempts, and differ
 * from pod to pod. Whoever can read the pod's own link can learn them: the guard with BPF has no such limit.
 */
export interface ProbeToken {
  readonly identification: number;
  readonly flowLabel: number;
  readonly urgentPointer: number;
}

/** Zero is what everybody's packets have. */
const nonZero = (random: Random, bits: number): number => 1 + Math.floor(random.uniform() * (2 ** bits - 1));

export const makeToken = (random: Random): ProbeToken => ({
  identification: nonZero(random, 16),
  flowLabel: nonZero(random, 20),
  urgentPointer: nonZero(random, 16),
});

/** nft's words for a first segment with the token, of each family. */
export const tokenMatch = (token: ProbeToken): readonly string[] => [
  `${firstSegment} ip id ${token.identification} tcp urgptr ${token.urgentPointer}`,
  `${firstSegment} ip6 flowlabel ${token.flowLabel} tcp urgptr ${token.urgentPointer}`,
];

/** nft's words that write the token, of each family. */
export const tokenWrite = (token: ProbeToken): { readonly v4: string; readonly v6: string } => ({
  v4: `ip id set ${token.identification} tcp urgptr set ${token.urgentPointer} accept`,
  v6: `ip6 flowlabel set ${token.flowLabel} tcp urgptr set ${token.urgentPointer} accept`,
});
