/** The native addon's interface (native/crates/node-addon). Loaded through `loadNative()`; every call throws with the system's own words. */

export interface PeerCredentials {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
}

/** A connection accepted on a stream socket: hand `fd` to `new net.Socket({ fd })`, which then owns it. */
export interface AcceptedStream {
  readonly fd: number;
  readonly peer: PeerCredentials;
}

/** One packet. Descriptors are owned by the receiver: close or pass on each. */
export interface Packet {
  readonly data: Buffer;
  readonly fds: readonly number[];
}

export class StreamListener {
  /** Binds with the given mode (removing a stale socket file that nobody serves) and listens. */
  static bind(path: string, mode: number): StreamListener;
  /** Resolves with the next connection, `null` once closed. */
  accept(): Promise<AcceptedStream | null>;
  close(): void;
}

export class PacketListener {
  static bind(path: string, mode: number): PacketListener;
  accept(): Promise<PacketConnection | null>;
  close(): void;
}

/** A SOCK_SEQPACKET connection. */
export class PacketConnection {
  static connect(path: string): Promise<PacketConnection>;
  readonly peer: PeerCredentials;
  /** Sends one packet with copies of the given descriptors (they stay open here). */
  send(data: Buffer, fds: readonly number[]): Promise<void>;
  /** The next packet; `null` when the peer has closed. A truncated packet or control message is an error. */
  receive(maxBytes: number): Promise<Packet | null>;
  close(): void;
}

export interface NetnsAddress {
  readonly interface: string;
  readonly address: string;
  readonly prefix: number;
}

/** Opens a namespace file (an `ip netns` name's path, /proc/PID/ns/net); close with `closeFd`. Verifies that it is a network namespace (nsfs, CLONE_NEWNET). */
export function openNetns(path: string): { readonly fd: number; readonly inode: number; readonly device: number };
/** The inode of the calling process's network namespace. */
export function currentNetnsInode(): number;
/** Addresses of all interfaces inside the namespace. */
export function netnsAddresses(fd: number): Promise<readonly NetnsAddress[]>;
/**
 * Runs a program inside the namespace (setns in the child between fork and exec), with `stdin` as its input, and collects its output.
 * `timeoutMs` ends it with SIGKILL.
 */
export function runInNetns(
  fd: number,
  command: string,
  args: readonly string[],
  stdin: string,
  timeoutMs: number,
): Promise<{ readonly code: number; readonly stdout: string; readonly stderr: string }>;
/** Writes a sysctl (for example `net/ipv4/ip_nonlocal_bind`) as seen from inside the namespace. */
export function writeNetnsSysctl(fd: number, name: string, value: string): Promise<void>;
/** The seals of a memfd (F_GET_SEALS); throws for anything that is not one. */
export function memfdSeals(fd: number): number;
export function duplicateFd(fd: number): number;
export function closeFd(fd: number): void;
/** Installs a parent-death signal on the calling process (PR_SET_PDEATHSIG). */
export function dieWithParent(signal: number): void;
