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

export const modes: readonly ModeUnderTest[] = [{ mode: "nftables", prefix: "bn", flags: [], families: [4] }];
