import { MeltemiError, messageOf } from "../../domain/error.js";
import type { Clock } from "../../platform/clock.js";
import type { Logger } from "../../platform/logger.js";
import type { Random } from "../../platform/random.js";
import { AnswerRouting } from "./answer-routing.js";
import type { NodeBpf } from "../../platform/native.js";
import { BpfRedirection, type ReadAddresses } from "./bpf/redirection.js";
import { captureSysctls } from "./bpf/sysctls.js";
import { inKernel, onLoopback } from "./family.js";
import { BpfGuard } from "./guard/bpf.js";
import { NftablesGuard } from "./guard/nftables.js";
import { noGuard } from "./guard/none.js";
import { HostProbes } from "./host/probes.js";
import { IptablesRedirection, type Variant } from "./iptables/redirection.js";
import { leftoverTables, tablesOf } from "./iptables/tables.js";
import type { Guard, ModeName, Netns, Redirection } from "./mode.js";
import { NftablesRedirection } from "./nftables/redirection.js";
import { readSysctls, writeSysctls, type Originals, type Sysctls } from "./originals.js";
import { LayeredCapture, type Capture, type CaptureRecord, type ReadTcpTable } from "./pod-capture.js";
import { PolicyRouting, type RoutingAccess } from "./policy-routing.js";
import type { Choice, GuardKind } from "./support.js";
import type { Tools } from "./tool.js";
import type { OpenWatch } from "./watch.js";

export interface CapturesParts {
  readonly node: string;
  readonly choice: Choice;
  readonly iptables: Variant | undefined;
  /** Undefined where the kernel has no BPF for us. */
  readonly programs: NodeBpf | undefined;
  /** The agent's own namespace. */
  readonly host: Netns;
  readonly tools: Tools;
  readonly sysctls: Sysctls;
  readonly routing: RoutingAccess;
  readonly addresses: ReadAddresses;
  readonly tcpTable: ReadTcpTable;
  readonly watch: OpenWatch;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly verifyIntervalMs: number;
  readonly onHostRepair: (part: string) => void;
}

/** The node's captures: the mode of its choice, and those that its pods were captured with before. */
export class Captures {
  readonly choice: Choice;
  readonly hostProbes: HostProbes;
  readonly #guards: ReadonlyMap<GuardKind, Guard>;
  readonly #redirections: ReadonlyMap<ModeName, Redirection>;
  readonly #made = new Map<ModeName, Capture>();

  constructor(private readonly parts: CapturesParts) {
    const { tools, sysctls, programs, addresses, tcpTable } = parts;
    this.choice = parts.choice;
    const routing = new PolicyRouting(parts.routing);
    const answers = new AnswerRouting(routing, onLoopback(sysctls));
    this.hostProbes = new HostProbes({
      ...parts,
      intervalMs: parts.verifyIntervalMs,
      onRepair: parts.onHostRepair,
    });
    this.#redirections = new Map<ModeName, Redirection>([
      ["nftables", new NftablesRedirection(tools, answers)],
      ["iptables", new IptablesRedirection(tools, answers, inKernel(sysctls), parts.iptables ?? "nft")],
      ["bpf", new BpfRedirection({ programs, routing, sysctls, addresses })],
    ]);
    this.#guards = new Map<GuardKind, Guard>([
      ["nftables", new NftablesGuard(tools, this.hostProbes, tcpTable)],
      ["none", noGuard],
      ...(programs === undefined ? [] : ([["bpf", new BpfGuard(programs)]] as const)),
    ]);
  }

  /** The node's programs; undefined where the kernel has no BPF for us. */
  get programs(): NodeBpf | undefined {
    return this.parts.programs;
  }

  /** For a pod that is captured already: the mode it has. Mode `bpf` is nothing without its programs. */
  of(record: CaptureRecord | undefined): Capture {
    const mode = record?.mode ?? this.choice.mode;
    return this.#capture(mode === "bpf" && this.parts.programs === undefined ? this.choice.mode : mode);
  }

  /** Takes out the layers that a namespace was captured with and is no longer. */
  async replace(netns: Netns, record: CaptureRecord, present: Capture): Promise<void> {
    if (record.mode !== present.mode) {
      await this.#redirection(record.mode).remove(netns);
      await this.#restore(netns, record.originals);
    }
    if (record.guard !== this.choice.guard) await this.#guards.get(record.guard)?.detach(netns);
  }

  /** Takes out all that an agent, this one or an earlier one, set in a namespace. */
  async remove(netns: Netns, record: CaptureRecord): Promise<void> {
    await this.#redirection(record.mode).remove(netns);
    await this.#restore(netns, record.originals);
    await this.#guards.get(record.guard)?.detach(netns);
  }

  /** For a namespace that is gone: what of its capture is outside of it. */
  async forget(record: CaptureRecord & Pick<Netns, "inode">): Promise<void> {
    await this.#guards.get(record.guard)?.detach({ inode: record.inode });
  }

  /** Takes the node's programs and their place away, where no pod has any: the last thing that an agent does. */
  end(): void {
    const { programs, log } = this.parts;
    if (programs === undefined || programs.attached().length > 0) return;
    try {
      programs.dispose();
    } catch (error) {
      log.warn("bpf directory not removed", { error: messageOf(error) });
    }
  }

  #capture(mode: ModeName): Capture {
    const made =
      this.#made.get(mode) ??
      new LayeredCapture({
        redirection: this.#redirection(mode),
        guard: this.#guards.get(this.choice.guard) ?? noGuard,
        guardKind: this.choice.guard,
        tcpTable: this.parts.tcpTable,
        originals: (netns) => this.#originals(netns, mode),
        restore: (netns, originals) => this.#restore(netns, originals),
      });
    this.#made.set(mode, made);
    return made;
  }

  #redirection(mode: ModeName): Redirection {
    const redirection = this.#redirections.get(mode);
    if (redirection === undefined) throw new MeltemiError("internal", `there is no redirection ${mode}`);
    return redirection;
  }

  async #originals(netns: Netns, mode: ModeName): Promise<Originals> {
    const { sysctls, addresses, tools } = this.parts;
    switch (mode) {
      case "nftables":
        return { sysctls: {} };
      case "iptables":
        return { sysctls: {}, tables: await tablesOf(tools, netns) };
      case "bpf": {
        const names = (await addresses(netns.fd)).map((one) => one.interface).filter((name) => name !== "lo");
        const wanted = Object.keys(captureSysctls([...new Set(names)]));
        return { sysctls: await readSysctls(sysctls, netns, wanted) };
      }
    }
  }

  async #restore(netns: Netns, originals: Originals): Promise<void> {
    await writeSysctls(this.parts.sysctls, netns, originals.sysctls);
    if (originals.tables === undefined) return;
    try {
      await leftoverTables(this.parts.tools, netns, originals.tables);
    } catch (error) {
      this.parts.log.debug("empty tables left", { inode: netns.inode, error: messageOf(error) });
    }
  }
}
