import { modes, type Mode } from "../../bench/capture/modes.js";
import { loadNative } from "../../src/platform/native.js";

/** The modes that this machine has: BPF is not to be had by a sandbox that is made without root. */
export function workingModes(): readonly Mode[] {
  const { supported } = loadNative().NodeBpf.probe();
  return modes.filter((mode) => mode !== "bpf" || supported);
}
