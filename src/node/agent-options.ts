import { join } from "node:path";
import type { LogLevel } from "../platform/logger.js";
import type { ListenAddress } from "./admin/tcp.js";
import type { RedirectMode } from "./capture/support.js";
import type { CniOptions } from "./cni/assembly.js";

/** The agent's flags (docs/node-interfaces.md, "Agent's command line"), once, as one typed object. */
export interface AgentOptions {
  readonly node: string;
  /** The directory of YAML; with `cluster`, unused. */
  readonly config: string;
  /** Pods and namespaces are those of a cluster; undefined: of the directory. */
  readonly cluster: { readonly kubeconfig: string | undefined } | undefined;
  /** The container runtime's socket (CRI), by which pods that ran before the agent are found; undefined: it is not asked. */
  readonly criSocket: string | undefined;
  readonly runDir: string;
  readonly stateDir: string;
  readonly controlPlane: string;
  readonly controlPlaneRoot: string;
  readonly tokenFile: string;
  readonly trustDomain: string;
  readonly clusterId: string;
  readonly network: string;
  /** The data plane's program; undefined: another one will connect, and is not supervised. */
  readonly proxy: string | undefined;
  /** The data plane that will connect is ours (another container of the node's pod): it registers its sockets with the guard. */
  readonly dataPlaneRegisters: boolean;
  readonly redirectMode: RedirectMode;
  /** Where the node's BPF programs and maps are pinned; undefined: BPF is not to be used. */
  readonly bpfDir: string | undefined;
  readonly metricsAddress: ListenAddress | undefined;
  readonly readyAddress: ListenAddress | undefined;
  /** On a clean exit the data plane and the capture stay, for an agent that comes after (an upgrade). */
  readonly leaveDataPlane: boolean;
  /** Undefined: no CNI plugin is served. */
  readonly cni: CniOptions | undefined;
  readonly logLevel: LogLevel;
  readonly logFormat: "json" | "text";
}

/** Where the agent's files lie. */
export function agentPaths({ runDir, stateDir }: Pick<AgentOptions, "runDir" | "stateDir">) {
  return {
    zds: join(runDir, "zds.sock"),
    xds: join(runDir, "xds.sock"),
    keys: join(runDir, "keys.sock"),
    nodeAdmin: join(runDir, "node-admin.sock"),
    nodeControl: join(runDir, "node-control.sock"),
    proxyAdmin: join(runDir, "proxy-admin.sock"),
    proxyControl: join(runDir, "proxy-control.sock"),
    captured: join(runDir, "captured.json"),
    sandboxes: join(runDir, "sandboxes.json"),
    pidFile: join(runDir, "proxy.json"),
    lastGood: join(stateDir, "last-good.json"),
    cniList: join(stateDir, "cni-list.json"),
    logs: join(stateDir, "logs"),
    proxyLog: join(stateDir, "logs", "proxy.log"),
  };
}

/** Times and bounds of the agent that are not flags. */
export const agentLimits = {
  verifyIntervalMs: 5_000,
  watchedIntervalMs: 300_000,
  captureGraceMs: 2_000,
  drainTimeoutMs: 10_000,
  ackTimeoutMs: 10_000,
  upstreamGraceMs: 2_000,
  lingerMs: 60_000,
  saveDelayMs: 500,
  certificateDeadlineMs: 10_000,
  proxyStartTimeoutMs: 30_000,
  probeIntervalMs: 1_000,
  probeTimeoutMs: 2_000,
  probeFailures: 3,
  proxyStopTimeoutMs: 15_000,
  logBytes: 32 << 20,
  logCheckMs: 10_000,
} as const;
