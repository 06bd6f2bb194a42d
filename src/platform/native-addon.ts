/**
 * The native addon's interface (native/crates/node-addon). Loaded through `loadNative()`.
 *
 * Every failing call throws or rejects with an `Error` whose message reads `ACTION: ERRNO: the system's words`.
 * Nothing here blocks the event loop for longer than a few system calls. A pending `accept` or `receive`
 * keeps the process alive, as Node's own sockets do, until `close`.
 */

/** SO_PEERCRED: who connected (or listened), as the kernel saw it at connect time. */
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

/** One packet. Descriptors are close-on-exec and owned by the receiver: close or pass on each. */
export interface Packet {
  readonly data: Buffer;
  readonly fds: readonly number[];
}

export interface StreamListener {
  /** Resolves with the next connection, `null` once closed. Rejects for example with EMFILE: wait before the next call. */
  accept(): Promise<AcceptedStream | null>;
  /** Ends pending accepts and removes the socket file, unless another process has replaced it. */
  close(): void;
}

export interface PacketListener {
  /** As `StreamListener.accept`. */
  accept(): Promise<PacketConnection | null>;
  close(): void;
}

/** A SOCK_SEQPACKET connection. */
export interface PacketConnection {
  readonly peer: PeerCredentials;
  /**
   * Sends one packet of 1 byte to 1 MiB with copies of at most 16 descriptors. Both are copied during the call: the
   * caller may close its descriptors and reuse the buffer at once. Packets leave in the order of the calls.
   */
  send(data: Buffer, fds: readonly number[]): Promise<void>;
  /**
   * The next packet; `null` when the peer has closed or `close` was called. A packet longer than `maxBytes` or with more
   * than 16 descriptors is an error, and its descriptors are closed. One call at a time.
   */
  receive(maxBytes: number): Promise<Packet | null>;
  /** Ends pending calls; packets not yet sent are dropped (await `send` first). */
  close(): void;
}

/** An open network namespace. `inode` and `device` together name it (nsfs). */
export interface Netns {
  readonly fd: number;
  readonly inode: number;
  readonly device: number;
}

/** `address` in text form without a zone, `prefix` in bits. */
/** A policy rule of a network namespace, as far as capture has such. */
export interface PolicyRule {
  readonly priority: number;
  /** An address, or a CIDR. */
  readonly to?: string | undefined;
  /** VALUE/MASK, in hexadecimal. */
  readonly mark?: string | undefined;
  /** Packets that this host makes itself. */
  readonly local?: boolean | undefined;
  readonly tcp?: boolean | undefined;
  /** With `tcp`. */
  readonly port?: number | undefined;
  /** Written for a rule that stands for the kernel's own. */
  readonly kernel?: boolean | undefined;
  /** A table to look in, by number or the kernel's name of it, or a later rule to go on at. */
  readonly table?: string | undefined;
  readonly goto?: number | undefined;
}

/** `local DESTINATION dev lo table TABLE src SOURCE`. */
export interface LocalRoute {
  /** `default`, an address, or a CIDR. */
  readonly destination: string;
  readonly table: string;
  readonly source?: string | undefined;
}

/** A route to an address or a network, or a local one. */
export interface NetnsRoute extends LocalRoute {
  readonly local: boolean;
  /** Empty where it has several. */
  readonly device: string;
}

export interface RoutingChange {
  readonly addRoutes: readonly LocalRoute[];
  readonly addRules: readonly PolicyRule[];
  readonly removeRules: readonly PolicyRule[];
  readonly removeRoutes: readonly LocalRoute[];
}

export interface NetnsAddress {
  readonly interface: string;
  readonly address: string;
  readonly prefix: number;
}

/** A namespace for `glanceNetns`. */
export interface NetnsPlace {
  readonly path: string;
  readonly inode: number;
  readonly expected: number;
}

/** `name` below `net/`, for example `net/ipv4/fwmark_reflect`. */
export interface SysctlValue {
  readonly name: string;
  readonly value: string;
}

/** `code` is the exit code, or 128 + the signal's number. */
export interface ProgramResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** A process held by pidfd: a recycled number is never mistaken for it. `startTicks` is field 22 of /proc/PID/stat. */
export interface ProcessHandle {
  readonly pid: number;
  readonly startTicks: number;
  /** Sends a signal (a number); `false` when the process has ended or the handle is closed. */
  signal(signal: number): boolean;
  /** Resolves `true` when the process has ended (reaped or not), `false` when the handle is closed first. */
  exited(): Promise<boolean>;
  close(): void;
}

/** Tells that rules, routes, addresses or links of a network namespace have changed: a hint to look, not what changed. */
export interface NetnsWatch {
  /** Resolves `true` when something has changed since the last call, `false` once closed. */
  next(): Promise<boolean>;
  close(): void;
}

/** Whether this kernel, with this process's privileges, can guard and redirect by BPF: tried, not told by version. */
export interface BpfSupport {
  readonly supported: boolean;
  /** What cannot be had, and the error that said so. */
  readonly missing: readonly { readonly feature: string; readonly error: string }[];
}

/** How a pod is captured. At most 16 addresses, 64 ports of each kind and 64 ranges. */
export interface PodCaptureSettings {
  /** All of the pod's addresses, both families: TCP to any other is dropped. */
  readonly addresses: readonly string[];
  readonly excludeInboundPorts: readonly number[];
  readonly excludeOutboundPorts: readonly number[];
  /** `ADDRESS/BITS`. */
  readonly excludeOutboundCidrs: readonly string[];
  readonly bypassInbound: boolean;
  /** `refuse` lets pass what the excluded ports and ranges name. */
  readonly udp: "pass" | "refuse";
}

/** What is attached to a pod. */
export interface PodPrograms {
  /** `host`: at the host's end of every interface; `pod`: some interface has none, and is guarded inside the pod. */
  readonly guard: "host" | "pod" | "none";
  readonly redirect: boolean;
  readonly interfaces: readonly { readonly name: string; readonly hostName?: string }[];
  /** The kernel's numbers of the links, by the names of their pins. */
  readonly linkIds: Readonly<Record<string, number>>;
}

/**
 * The node's guard and redirection. What it attaches is pinned in the node's directory and stays in force when the
 * process ends. To be made in the host's network namespace. Attaching and detaching return promises, because the kernel
 * takes some 8 ms for each link, one after the other; for one pod, await one before the next call.
 */
export interface NodeBpf {
  /**
   * Puts the guard in force. At a pod's first time, connections that are there are exempt. Again for one that has it:
   * takes the settings, repairs what is broken, takes new interfaces, ends draining.
   */
  attachGuard(netnsFd: number, inode: number, settings: PodCaptureSettings): Promise<PodPrograms>;
  /**
   * Has the pod's new connections brought to the listeners that the data plane leaves in the map
   * `pods/INODE/listeners`; refused where that is empty. Needs the guard. Routes, rules and sysctls are the caller's.
   */
  attachRedirect(netnsFd: number, inode: number): Promise<PodPrograms>;
  /** Takes the redirection away, the guard stays. */
  detachRedirect(inode: number): Promise<void>;
  /** Changes the settings of an attached pod; whether it drains stays as it is. */
  update(inode: number, settings: PodCaptureSettings): void;
  /**
   * The pod leaves: guard and redirection let new connections pass directly; the application's sockets that the proxy
   * still carries get the mark 0x53b. Returns how many.
   */
  markForDrain(netnsFd: number, inode: number): number;
  /** What is not as attached, in constant phrases; empty: intact. */
  verify(netnsFd: number, inode: number): readonly string[];
  /**
   * The short look at many pods: those (of `inodes`) whose links or settings are not as the last `verify` found them
   * intact, or that it has not looked at since they were attached. Some microseconds for each pod, on a thread of its own.
   */
  glance(inodes: readonly number[]): Promise<readonly number[]>;
  /** Packets by reason since the guard was attached, both directions together; every reason is there. */
  counters(inode: number): Readonly<Record<string, number>>;
  /** Removes everything of a pod, also when its namespace is gone, or nothing is there. */
  detach(inode: number): Promise<void>;
  /** Inodes of namespaces that something is pinned for, also by an agent before this one. */
  attached(): readonly number[];
  /** Removes everything of every pod, then the node's maps and directory. The object is of no use afterwards. */
  dispose(): void;
}

export interface NativeAddon {
  readonly NodeBpf: {
    probe(): BpfSupport;
    /**
     * Loads the programs, and opens what is pinned in the directory (absolute); makes it, with a BPF file system
     * mounted upon it where it is not below one.
     */
    open(directory: string): NodeBpf;
  };
  readonly NetnsWatch: {
    /** Needs CAP_NET_ADMIN in the namespace. The watch keeps the namespace alive until it is closed. */
    open(fd: number): Promise<NetnsWatch>;
  };
  readonly ProcessHandle: {
    /** Throws ESRCH when there is no such process. */
    open(pid: number): ProcessHandle;
  };
  readonly StreamListener: {
    /**
     * Binds and listens. The socket file has `mode` (permission bits) from the moment it can be seen; a stale socket
     * file is replaced; one that another process serves is an EADDRINUSE error, any other file an EEXIST error.
     */
    bind(path: string, mode: number): StreamListener;
  };
  readonly PacketListener: {
    /** As `StreamListener.bind`, for SOCK_SEQPACKET. */
    bind(path: string, mode: number): PacketListener;
  };
  readonly PacketConnection: {
    connect(path: string): Promise<PacketConnection>;
  };
  /**
   * Opens a namespace file (an `ip netns` name's path, /proc/PID/ns/net); close with `closeFd`. Verifies that it is a
   * network namespace (nsfs, CLONE_NEWNET).
   */
  openNetns(path: string): Netns;
  /** The inode of the calling process's network namespace. */
  currentNetnsInode(): number;
  /** IPv4 and IPv6 addresses of all interfaces inside the namespace. */
  netnsAddresses(fd: number): Promise<readonly NetnsAddress[]>;
  /** The namespace's policy rules and routes of one family; nothing where the kernel does not have the family. */
  readNetnsRouting(
    fd: number,
    ipv6: boolean,
  ): Promise<{ readonly rules: readonly PolicyRule[]; readonly routes: readonly NetnsRoute[] }>;
  /**
   * Changes them in the order in which nothing is ever looked up in the wrong place: routes before the rules that point
   * at them, rules added before others are taken away, routes removed last. A route added takes the place of one to the
   * same destination. What is to be removed may be gone.
   */
  changeNetnsRouting(fd: number, ipv6: boolean, change: RoutingChange): Promise<void>;
  /**
   * Runs a program inside the namespace (setns in the child between fork and exec), with `stdin` as its input, and
   * collects its output (at most 1 MiB of each kind). When it ends, or after `timeoutMs`, whatever it has started in
   * its process group gets SIGKILL; a timeout rejects with ETIMEDOUT.
   */
  runInNetns(
    fd: number,
    command: string,
    args: readonly string[],
    stdin: string,
    timeoutMs: number,
  ): Promise<ProgramResult>;
  /** Writes a sysctl below `net/` (for example `net/ipv4/ip_nonlocal_bind`) as seen from inside the namespace. */
  writeNetnsSysctl(fd: number, name: string, value: string): Promise<void>;
  /** Values of sysctls below `net/`, as seen from inside the namespace; `null` for one that is not there. */
  readNetnsSysctls(fd: number, names: readonly string[]): Promise<readonly (string | null)[]>;
  /**
   * The short look into many namespaces, on one thread that ends with it: the inodes of those whose path leads elsewhere
   * by now, or cannot be opened, or that have another value of a sysctl. `expected` of a place is an index into `expected`;
   * a sysctl that is not there counts as right.
   */
  glanceNetns(
    places: readonly NetnsPlace[],
    expected: readonly (readonly SysctlValue[])[],
  ): Promise<readonly number[]>;
  /** The text of the namespace's /proc/net/tcp and tcp6. */
  netnsTcpTable(fd: number): Promise<string>;
  /** The seals of a memfd (F_GET_SEALS, bits as in fcntl(2)); throws for anything that is not one. */
  memfdSeals(fd: number): number;
  /** A close-on-exec duplicate. */
  duplicateFd(fd: number): number;
  closeFd(fd: number): void;
  /** Asks the kernel to send `signal` (a number) to this process when its parent ends (PR_SET_PDEATHSIG). */
  dieWithParent(signal: number): void;
}
