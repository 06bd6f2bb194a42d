import type { AgentOptions } from "../agent-options.js";

/** The data plane's command line (docs/node-interfaces.md): its sockets have their default names in the run directory. */
export function proxyArguments(options: AgentOptions, bpfDir: string): readonly string[] {
  return [
    "ztunnel",
    ...["--node", options.node],
    ...["--run-dir", options.runDir],
    ...["--trust-domain", options.trustDomain],
    ...["--cluster-id", options.clusterId],
    ...["--network", options.network],
    ...["--bpf-dir", bpfDir],
    ...["--log-level", options.logLevel],
    ...["--log-format", options.logFormat],
  ];
}
