/**
 * Capture: what makes a pod's new TCP connections meet the data plane's listeners (which live in the
 * pod's own network namespace), and keeps everything else from passing. Two layers: a redirection brings
 * connections to the proxy, a guard stops what did not come by it. One implementation per mechanism; the
 * enrolment knows only `PodCapture` (pod-capture.ts), which puts one of each together.
 */

import type { SysctlValue } from "../../platform/native.js";

/** An open network namespace: the descriptor pins it, so that a name given to another namespace meanwhile changes nothing. */
export interface Netns {
  readonly fd: number;
  readonly inode: number;
}

/**
 * `redirecting`: new connections go to the data plane, what is not captured is dropped.
 * `draining`: new connections go directly; connections that the data plane still carries go on.
 */
export type CaptureForm = "redirecting" | "draining";

/** What is captured of one pod, and what its owner has left out. The addon takes it as it is. */
export interface CaptureSettings {
  /** The pod's own, in canonical text. */
  readonly addresses: readonly string[];
  readonly excludeInboundPorts: readonly number[];
  readonly excludeOutboundPorts: readonly number[];
  readonly excludeOutboundCidrs: readonly string[];
  /** Connections to the pod are left alone, except those to the tunnel's port. */
  readonly bypassInbound: boolean;
  readonly udp: "pass" | "refuse";
}

/** A pod's namespace, with what is to be captured there. */
export interface CapturedPod {
  readonly netns: Netns;
  readonly settings: CaptureSettings;
}

export const modeNames = ["bpf", "nftables", "iptables"] as const;
export type ModeName = (typeof modeNames)[number];

/**
 * `bpf`: programs at the host's end of the pod's links, out of the pod's reach. `bpf-in-pod`: the same programs
 * inside the pod, where a link has no end in the host. `nftables`: the weaker form, which goes by marks.
 */
export type GuardName = "bpf" | "bpf-in-pod" | "nftables" | "none";

/** Why capture dropped a packet: the closed set of `meltemi_capture_dropped_total{reason}`. */
export const dropReasons = [
  "malformed",
  "no_socket",
  "not_for_pod",
  "plaintext_in",
  "proxy_port",
  "proxy_port_loop",
  "raw_socket",
  "spoofed",
  "udp_refused",
  "unregistered_listener",
  "unregistered_socket",
  "unserved",
] as const;
export type DropReason = (typeof dropReasons)[number];

/** Why the guard let a packet pass that the data plane does not carry: `meltemi_capture_passed_total{reason}`. */
export const passReasons = ["before", "excluded", "host", "udp"] as const;
export type PassReason = (typeof passReasons)[number];

/** Packets by reason, since that layer's counters began. Unknown names are a newer program's, and are left out. */
export type Counts = ReadonlyMap<DropReason | PassReason, number>;

/** Each layer has counters of its own, which begin anew with its rules. */
export interface LayerCounts {
  readonly redirection: Counts;
  readonly guard: Counts;
}

/** What `verify` of a layer saw. */
export interface LayerState {
  /** Constant phrases, one per part that is not as applied; empty when intact. */
  readonly broken: readonly string[];
  readonly counts: Counts;
}

/** What of a layer changes without the kernel's announcing it: looked at every few seconds (enrol/patrol.ts). */
export interface Unannounced {
  /** With the values that they are to have; the same list for all pods that are to have the same. */
  readonly sysctls?: readonly SysctlValue[];
  /** Whether programs are attached to the pod. */
  readonly programs?: true;
  /** Where only a program of the system can tell: whether all is as applied. */
  readonly ask?: () => Promise<boolean>;
}

/** Brings a pod's new connections to the data plane. */
export interface Redirection {
  readonly name: ModeName;
  /** What must exist before the data plane is told of the pod. */
  prepare(pod: CapturedPod): Promise<void>;
  /** Makes the namespace's redirection exactly this. Throws `system` with the tool's words. */
  apply(pod: CapturedPod, form: CaptureForm): Promise<void>;
  /** Compares the namespace with what `apply` makes of it. */
  verify(pod: CapturedPod, form: CaptureForm): Promise<LayerState>;
  /** Asked often: it costs nothing. */
  unannounced(netns: Netns): Unannounced;
  /** The counters alone, at less cost. Empty where nothing is in force. */
  counts(netns: Netns): Promise<Counts>;
  /** Leaves the namespace as it was before `prepare`; succeeds where nothing was applied. */
  remove(netns: Netns): Promise<void>;
}

/** Stops what did not come by way of the data plane. */
export interface Guard {
  /** Its place in this namespace, as status shows it. */
  place(netns: Netns): GuardName;
  /**
   * In force when it resolves. Connections that exist are let go on, except where the guard was in force already:
   * then it knows which were there before.
   */
  attach(pod: CapturedPod): Promise<void>;
  /** Lets new connections pass directly, while those that the data plane carries end. */
  drain(pod: CapturedPod): Promise<void>;
  verify(pod: CapturedPod): Promise<LayerState>;
  /** As of a redirection. */
  unannounced(netns: Netns): Unannounced;
  counts(netns: Netns): Promise<Counts>;
  /** Leaves no trace, also of a namespace that is gone. */
  detach(netns: Pick<Netns, "inode"> & Partial<Netns>): Promise<void>;
}

/** Runs a program inside a namespace (the addon's `runInNetns`). */
export type RunInNetns = (
  fd: number,
  command: string,
  args: readonly string[],
  stdin: string,
  timeoutMs: number,
) => Promise<{ readonly code: number; readonly stdout: string; readonly stderr: string }>;
