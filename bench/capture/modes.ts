/** How pods' connections are brought to the data plane: `--redirect-mode`. */
export const modes = ["bpf", "nftables", "iptables"] as const;
export type Mode = (typeof modes)[number];

/** @throws Error naming what is no mode */
export function parseModes(text: string): readonly Mode[] {
  return text.split(",").map((name) => {
    const mode = modes.find((each) => each === name);
    if (mode === undefined) throw new Error(`${name} is no mode; there are ${modes.join(", ")}`);
    return mode;
  });
}
