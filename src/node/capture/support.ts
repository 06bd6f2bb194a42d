import { messageOf } from "../../domain/error.js";
import type { BpfSupport } from "../../platform/native.js";
import { guardScript } from "./guard/nftables-ruleset.js";
import { hostScript } from "./host/table.js";
import { variants, type Variant } from "./iptables/redirection.js";
import { applyScript as iptablesScript } from "./iptables/ruleset.js";
import { modeNames, type CaptureSettings, type ModeName } from "./mode.js";
import { applyScript as nftablesScript } from "./nftables/ruleset.js";

/** One thing that a node can do, or why it cannot and what to do about it. */
export interface Ability {
  readonly works: boolean;
  readonly reason: string;
  readonly fix?: string;
}

/** What was tried on this node. Nothing is concluded from a version. */
export interface NodeSupport {
  readonly bpf: Ability;
  readonly nftables: Ability;
  readonly iptables: Ability & { readonly variant: Variant | undefined };
  /** The weaker guard. */
  readonly nftablesGuard: Ability;
}

/** Runs a program in the agent's own namespaces. */
export type RunHere = (
  command: string,
  args: readonly string[],
  stdin: string,
) => Promise<{ readonly code: number; readonly stderr: string }>;

const sample: CaptureSettings = {
  addresses: ["192.0.2.1", "2001:db8::1"],
  excludeInboundPorts: [22],
  excludeOutboundPorts: [25],
  excludeOutboundCidrs: ["192.0.2.0/24", "2001:db8::/32"],
  bypassInbound: false,
  udp: "refuse",
};
const token = { identification: 1, flowLabel: 1, urgentPointer: 1 } as const;

/** A network namespace that lives as long as the program: what is loaded there is gone with it. */
const scratch = (command: string, args: readonly string[]): readonly [string, readonly string[]] => [
  "unshare",
  ["--net", "--", command, ...args],
];

async function tryOut(
  run: RunHere,
  command: string,
  args: readonly string[],
  stdin: string,
): Promise<string | undefined> {
  try {
    const { code, stderr } = await run(...scratch(command, args), stdin);
    if (code === 0) return undefined;
    return stderr.trim().split("\n")[0] ?? `exit code ${code}`;
  } catch (error) {
    return messageOf(error);
  }
}

const nftFix =
  "install nftables (Debian: apt install nftables), with the kernel's nf_tables, nft_tproxy, nft_redir and nft_socket";
const iptablesFix =
  "install iptables, with the kernel's xt_TPROXY, xt_REDIRECT, xt_mark, xt_connmark and xt_comment, for IPv4 and IPv6";
const bpfFix =
  "use a kernel of 6.6 or newer with CONFIG_BPF_SYSCALL and CONFIG_NET_CLS_ACT, and give the agent CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN";

const ability = (failure: string | undefined, worked: string, fix: string): Ability =>
  failure === undefined ? { works: true, reason: worked } : { works: false, reason: failure, fix };

async function tryNftables(run: RunHere): Promise<Ability> {
  const failure = await tryOut(run, "nft", ["-f", "-"], nftablesScript(sample, "redirecting"));
  return ability(failure, "the rules load", nftFix);
}

async function tryNftablesGuard(run: RunHere): Promise<Ability> {
  const pod = { inode: 1, addresses: sample.addresses, token };
  const script = guardScript({ settings: sample, before: [], token }) + hostScript("probe", [pod]);
  return ability(await tryOut(run, "nft", ["-f", "-"], script), "the rules load", nftFix);
}

async function tryIptables(run: RunHere): Promise<NodeSupport["iptables"]> {
  let first: string | undefined;
  for (const variant of variants) {
    let failure: string | undefined;
    for (const [family, program] of [
      ["4", "iptables"],
      ["6", "ip6tables"],
    ] as const) {
      const script = iptablesScript(sample, "redirecting", family, "");
      failure ??= await tryOut(run, `${program}-${variant}-restore`, ["--noflush"], script);
    }
    if (failure === undefined) return { works: true, variant, reason: `iptables-${variant} loads the rules` };
    first ??= failure;
  }
  return { works: false, variant: undefined, reason: first ?? "", fix: iptablesFix };
}

function tryBpf(probe: () => BpfSupport): Ability {
  try {
    const { supported, missing } = probe();
    const reason = missing.map(({ feature, error }) => `${feature}: ${error}`).join("; ");
    return ability(supported ? undefined : reason, "the programs load", bpfFix);
  } catch (error) {
    return ability(messageOf(error), "", bpfFix);
  }
}

/** Tries everything out, in namespaces that do not outlive the attempt. */
export async function probeNode(run: RunHere, probe: () => BpfSupport): Promise<NodeSupport> {
  const [nftables, nftablesGuard, iptables] = await Promise.all([
    tryNftables(run),
    tryNftablesGuard(run),
    tryIptables(run),
  ]);
  return { bpf: tryBpf(probe), nftables, iptables, nftablesGuard };
}

export const redirectModes = ["auto", ...modeNames] as const;
export type RedirectMode = (typeof redirectModes)[number];
export type GuardKind = "bpf" | "nftables" | "none";

export interface Choice {
  readonly mode: ModeName;
  readonly guard: GuardKind;
  /** Why this mode and guard, for people. */
  readonly reason: string;
}

/** The first mode that works, or the one that is asked for where it does; undefined where none can be had. */
export function choose(support: NodeSupport, wanted: RedirectMode): Choice | undefined {
  const candidates = wanted === "auto" ? modeNames : [wanted];
  const mode = candidates.find((one) => support[one].works);
  if (mode === undefined) return undefined;
  const guard = support.bpf.works ? "bpf" : support.nftablesGuard.works ? "nftables" : "none";
  const passed = candidates.slice(0, candidates.indexOf(mode));
  const why = [
    ...(wanted === "auto" ? [] : ["asked for"]),
    ...passed.map((one) => `${one}: ${support[one].reason}`),
    ...(wanted === "auto" && passed.length === 0 ? [support[mode].reason] : []),
    ...(guard === "nftables" ? ["the guard is the weaker form: it goes by marks"] : []),
    ...(guard === "none" ? ["there is no guard: a process with NET_RAW gets past the redirection"] : []),
  ];
  return { mode, guard, reason: why.join("; ") };
}
