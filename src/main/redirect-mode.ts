/** The help of `--redirect-mode`, which node and standalone share. */
export const redirectModeHelp =
  "what brings pods' connections to the data plane: bpf, nftables, iptables, or auto, the first that works";
