import type { AgentOptions } from "../agent-options.js";

/** The data plane's command line (docs/node-interfaces.md): its sockets have their default names in the run directory. */
export function proxyArguments(options: AgentOptions): readonly string[] {
  return [
    "ztunnel",
    ...["--node", options.node],
    ...["--run-dir", options.runDir],
    ...["--trust-domain", options.trustDomain],
    ...["--cluster-id", options.clusterId],
    ...["--network", options.network],
    ...["--log-level", options.logLevel],
    ...["--log-format", options.logFormat],
  ];
}
