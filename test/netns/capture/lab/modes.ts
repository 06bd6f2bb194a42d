/** The redirection modes, and the families that each is tried over. */
import type { Family } from "../cases/case.js";
import type { Mode } from "./kernel.js";

interface ModeUnderTest {
  readonly mode: Mode;
  /** Of its namespaces. */
  readonly prefix: string;
  /** Flags of `meltemi standalone` that choose it. */
  readonly flags: readonly string[];
  readonly families: readonly Family[];
}

const over = (mode: Mode, prefix: string): ModeUnderTest => ({
  mode,
  prefix,
  flags: ["--redirect-mode", mode],
  families: [4, 6],
});

export const modes: readonly ModeUnderTest[] = [
  over("bpf", "bb"),
  over("nftables", "bn"),
  over("iptables", "bi"),
];
