import { addressHex, countCarried } from "./carried.js";
import type {
  CapturedPod,
  Guard,
  GuardName,
  LayerCounts,
  ModeName,
  Netns,
  Redirection,
  Unannounced,
} from "./mode.js";
import type { Originals } from "./originals.js";
import type { GuardKind } from "./support.js";

/** What `verify` saw of both layers. */
export interface CaptureState {
  /** Constant phrases, one per part that is not as applied; empty when intact. */
  readonly broken: readonly string[];
  readonly counts: LayerCounts;
}

/** How a namespace was captured: what an agent that comes later has to know. */
export interface CaptureRecord {
  readonly mode: ModeName;
  readonly guard: GuardKind;
  readonly originals: Originals;
}

/** A pod's capture, as its enrolment sees it. */
export interface Capture {
  readonly mode: ModeName;
  readonly guardKind: GuardKind;
  guardOf(netns: Netns): GuardName;
  /** What was there before us and has to come back. Asked once, before anything is changed. */
  originals(netns: Netns): Promise<Originals>;
  /**
   * The guard in force, and all in place that the data plane looks for when it is told.
   * @param fresh no agent has captured this namespace before: what is found there of ours is another's
   */
  prepare(pod: CapturedPod, fresh: boolean): Promise<void>;
  /** The redirection in force. */
  apply(pod: CapturedPod): Promise<void>;
  /** New connections go directly, carried ones go on. */
  drain(pod: CapturedPod): Promise<void>;
  verify(pod: CapturedPod): Promise<CaptureState>;
  /** What of both layers netlink does not tell of. */
  unannounced(netns: Netns): Unannounced;
  /** Puts both layers right. */
  repair(pod: CapturedPod): Promise<void>;
  counts(netns: Netns): Promise<LayerCounts>;
  /** Leaves the namespace as it was. */
  remove(netns: Netns, originals: Originals): Promise<void>;
  /** How many connections inside the namespace the data plane still carries, or more where one counts twice. */
  carriedConnections(pod: CapturedPod): Promise<number>;
}

/** Reads what a namespace tells of its connections (the addon's `netnsTcpTable`). */
export type ReadTcpTable = (fd: number) => Promise<string>;

export interface Layers {
  readonly redirection: Redirection;
  readonly guard: Guard;
  readonly guardKind: GuardKind;
  readonly tcpTable: ReadTcpTable;
  readonly originals: (netns: Netns) => Promise<Originals>;
  readonly restore: (netns: Netns, originals: Originals) => Promise<void>;
}

/** A redirection and a guard, in the order in which nothing leaks. */
export class LayeredCapture implements Capture {
  constructor(private readonly layers: Layers) {}

  get mode(): ModeName {
    return this.layers.redirection.name;
  }

  get guardKind(): GuardKind {
    return this.layers.guardKind;
  }

  guardOf(netns: Netns): GuardName {
    return this.layers.guard.place(netns);
  }

  originals(netns: Netns): Promise<Originals> {
    return this.layers.originals(netns);
  }

  async prepare(pod: CapturedPod, fresh: boolean): Promise<void> {
    if (fresh) await this.layers.guard.detach(pod.netns);
    await this.layers.guard.attach(pod);
    await this.layers.redirection.prepare(pod);
  }

  apply(pod: CapturedPod): Promise<void> {
    return this.layers.redirection.apply(pod, "redirecting");
  }

  async drain(pod: CapturedPod): Promise<void> {
    // The other way round, new connections would be stopped by the guard in between.
    await this.layers.guard.drain(pod);
    await this.layers.redirection.apply(pod, "draining");
  }

  async verify(pod: CapturedPod): Promise<CaptureState> {
    const [redirection, guard] = await Promise.all([
      this.layers.redirection.verify(pod, "redirecting"),
      this.layers.guard.verify(pod),
    ]);
    return {
      broken: [...redirection.broken, ...guard.broken],
      counts: { redirection: redirection.counts, guard: guard.counts },
    };
  }

  unannounced(netns: Netns): Unannounced {
    // Programs are both layers' and looked at together; the rest is the redirection's alone.
    return { ...this.layers.guard.unannounced(netns), ...this.layers.redirection.unannounced(netns) };
  }

  async repair(pod: CapturedPod): Promise<void> {
    await this.layers.guard.attach(pod);
    await this.layers.redirection.prepare(pod);
    await this.layers.redirection.apply(pod, "redirecting");
  }

  async counts(netns: Netns): Promise<LayerCounts> {
    const [redirection, guard] = await Promise.all([
      this.layers.redirection.counts(netns),
      this.layers.guard.counts(netns),
    ]);
    return { redirection, guard };
  }

  async remove(netns: Netns, originals: Originals): Promise<void> {
    await this.layers.redirection.remove(netns);
    await this.layers.restore(netns, originals);
    await this.layers.guard.detach(netns);
  }

  async carriedConnections({ netns, settings }: CapturedPod): Promise<number> {
    return countCarried(await this.layers.tcpTable(netns.fd), new Set(settings.addresses.map(addressHex)));
  }
}
