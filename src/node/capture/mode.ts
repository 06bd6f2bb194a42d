/**
 * Capture: what makes a pod's new TCP connections meet the data plane's listeners (which live in the
 * pod's own network namespace). One implementation per mechanism; the enrolment knows only this interface.
 */

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

/** Why capture dropped a packet: the closed set of `meltemi_capture_dropped_total{reason}`. */
export const dropReasons = ["ipv6_tcp_in", "ipv6_tcp_out", "proxy_port_in", "proxy_port_loop"] as const;
export type DropReason = (typeof dropReasons)[number];

/** Packets dropped since the rules were last loaded. */
export type DropCounts = ReadonlyMap<DropReason, number>;

/** What `verify` saw. */
export interface CaptureState {
  /** Constant phrases, one per part that is not as applied; empty when intact. */
  readonly broken: readonly string[];
  readonly drops: DropCounts;
}

export interface CaptureMode {
  readonly name: "nftables";
  /** Makes the namespace's capture exactly this, in one step for every packet. Throws `system` with the tool's words. */
  apply(netns: Netns, form: CaptureForm): Promise<void>;
  /** Compares the namespace with what `apply` made of it. */
  verify(netns: Netns, form: CaptureForm): Promise<CaptureState>;
  /** The drops alone, at less cost. Empty where capture is not in force. */
  drops(netns: Netns): Promise<DropCounts>;
  /** Leaves the namespace as it was before `apply`; succeeds where nothing was applied. */
  remove(netns: Netns): Promise<void>;
  /** Connections inside the namespace that the data plane still carries. */
  carriedConnections(netns: Netns): Promise<number>;
}

/** Runs a program inside a namespace (the addon's `runInNetns`). */
export type RunInNetns = (
  fd: number,
  command: string,
  args: readonly string[],
  stdin: string,
  timeoutMs: number,
) => Promise<{ readonly code: number; readonly stdout: string; readonly stderr: string }>;
