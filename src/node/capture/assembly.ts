import { MeltemiError } from "../../domain/error.js";
import type { Clock } from "../../platform/clock.js";
import type { Logger } from "../../platform/logger.js";
import type { NativeAddon } from "../../platform/native.js";
import type { Random } from "../../platform/random.js";
import { Captures } from "./captures.js";
import {
  choose,
  probeNode,
  type Ability,
  type Choice,
  type NodeSupport,
  type RedirectMode,
  type RunHere,
} from "./support.js";
import { modeNames } from "./mode.js";
import { Tools } from "./tool.js";
import { netlinkWatch } from "./watch.js";

export interface CaptureOptions {
  readonly node: string;
  readonly redirectMode: RedirectMode;
  /**
   * Where the node's BPF programs and maps are pinned: on a bpffs, which is mounted there if there is none. Undefined: BPF
   * is not to be used.
   */
  readonly bpfDir: string | undefined;
  /** Whether the data plane is ours, which tells the guard its sockets: another one can only mark them. */
  readonly dataPlaneRegisters: boolean;
  readonly verifyIntervalMs: number;
}

export interface CapturePlatform {
  readonly native: NativeAddon;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly onHostRepair: (part: string) => void;
}

const probeTimeoutMs = 10_000;

/** Runs programs in the agent's own namespace. */
export function runHere(native: NativeAddon): {
  readonly run: RunHere;
  readonly fd: number;
  readonly inode: number;
} {
  const { fd, inode } = native.openNetns("/proc/self/ns/net");
  return {
    fd,
    inode,
    run: (command, args, stdin) => native.runInNetns(fd, command, args, stdin, probeTimeoutMs),
  };
}

/** What this node can do: tried, in namespaces that do not outlive the attempt. */
export async function nodeSupport(native: NativeAddon): Promise<NodeSupport> {
  const { run, fd } = runHere(native);
  try {
    return await probeNode(run, () => native.NodeBpf.probe());
  } finally {
    native.closeFd(fd);
  }
}

/** Chooses the node's capture. Throws `unavailable` where what is asked for, or everything, cannot be had. */
export async function assembleCaptures(
  options: CaptureOptions,
  platform: CapturePlatform,
): Promise<Captures> {
  const { native, log } = platform;
  const tried = await nodeSupport(native);
  const { bpfDir } = options;
  const unusable =
    bpfDir === undefined ? switchedOff : options.dataPlaneRegisters ? undefined : foreignDataPlane;
  const support = unusable === undefined ? tried : { ...tried, bpf: unusable };
  const choice = required(support, options.redirectMode);
  log.info("capture chosen", { mode: choice.mode, guard: choice.guard, reason: choice.reason });
  if (choice.guard !== "bpf")
    log.warn("the guard is not the strong one", { guard: choice.guard, reason: support.bpf.reason });
  const { fd, inode } = native.openNetns("/proc/self/ns/net");
  return new Captures({
    node: options.node,
    choice,
    iptables: support.iptables.variant,
    programs: support.bpf.works && bpfDir !== undefined ? native.NodeBpf.open(bpfDir) : undefined,
    host: { fd, inode },
    tools: new Tools((...call) => native.runInNetns(...call)),
    sysctls: native,
    routing: native,
    addresses: (pod) => native.netnsAddresses(pod),
    tcpTable: (pod) => native.netnsTcpTable(pod),
    watch: netlinkWatch(native, log),
    clock: platform.clock,
    random: platform.random,
    log,
    verifyIntervalMs: options.verifyIntervalMs,
    onHostRepair: platform.onHostRepair,
  });
}

const switchedOff: Ability = {
  works: false,
  reason: "it is not to be used (--bpf-dir none)",
  fix: "name a directory, or leave --bpf-dir out",
};

const foreignDataPlane: Ability = {
  works: false,
  reason: "the data plane is not this agent's, and registers no sockets",
  fix: "have the agent start meltemi-proxy (--proxy), or say that the other one is meltemi-proxy (--data-plane-registers)",
};

function required(support: NodeSupport, wanted: RedirectMode): Choice {
  const choice = choose(support, wanted);
  if (choice !== undefined) return choice;
  const candidates = wanted === "auto" ? modeNames : ([wanted] as const);
  const [first] = candidates;
  throw new MeltemiError(
    "unavailable",
    wanted === "auto"
      ? `this node can capture no pod: ${candidates.map((mode) => `${mode}: ${support[mode].reason}`).join("; ")}`
      : `redirect mode ${wanted} does not work on this node: ${support[wanted].reason}`,
    { hint: `${support[first].fix ?? ""}; \`meltemi doctor node\` says what this node supports` },
  );
}
