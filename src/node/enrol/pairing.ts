import { MeltemiError, messageOf } from "../../domain/error.js";
import { canonicalIp } from "../../domain/ip.js";
import type { Netns } from "../capture/mode.js";
import type { EnrolledPod } from "./desired.js";
import { PodProcesses } from "./pairing-processes.js";

/**
 * Pairing: which network namespace is a pod's. A name is a claim; the kernel is asked for proof (the
 * namespace holds the pod's address and is nobody else's) before the pod's identity may be used there.
 */
export interface NetnsAccess {
  openNetns(path: string): { readonly fd: number; readonly inode: number };
  netnsAddresses(fd: number): Promise<readonly { readonly interface: string; readonly address: string }[]>;
  currentNetnsInode(): number;
  closeFd(fd: number): void;
}

/** Where a namespace of that name or path may be found, in the order of trying. */
export function netnsPaths(reference: string): readonly string[] {
  return reference.startsWith("/") ? [reference] : [`/run/netns/${reference}`, `/var/run/netns/${reference}`];
}

/** A namespace that belongs to a pod, and the file by which it was found. */
export interface PairedNetns extends Netns {
  readonly path: string;
}

function openFirst(access: NetnsAccess, reference: string): PairedNetns {
  const failures: string[] = [];
  for (const path of netnsPaths(reference)) {
    try {
      const { fd, inode } = access.openNetns(path);
      return { fd, inode, path };
    } catch (error) {
      failures.push(messageOf(error));
    }
  }
  // The kernel could not look, for want of descriptors or memory: that says nothing about the namespace.
  const exhausted = failures.some((failure) => /\b(EMFILE|ENFILE|ENOMEM)\b/.test(failure));
  throw new MeltemiError(
    exhausted ? "system" : "not_found",
    `network namespace "${reference}" cannot be opened: ${failures.join("; ")}`,
    {
      hint: "the annotation meltemi.io/netns names it as `ip netns` does, or by its path",
    },
  );
}

/** Same address, whatever the spelling of IPv6. */
function sameAddress(a: string, b: string): boolean {
  return (canonicalIp(a) ?? a) === (canonicalIp(b) ?? b);
}

/** Who holds which address and which namespace: the first to claim keeps it until it lets go. */
export class Claims {
  readonly #holders = new Map<string, string>();

  /** Throws `conflict` naming the present holder. */
  take(what: "address" | "network namespace", value: string, holder: string): void {
    const key = `${what} ${value}`;
    const present = this.#holders.get(key) ?? holder;
    if (present !== holder) {
      throw new MeltemiError("conflict", `${what} ${value} already belongs to pod ${present}`, {
        hint: "give each pod an address and a namespace of its own, or remove the pod that holds it",
      });
    }
    this.#holders.set(key, holder);
  }

  releaseAll(holder: string): void {
    for (const [key, present] of this.#holders) if (present === holder) this.#holders.delete(key);
  }
}

export class Pairing {
  readonly #forbidden: ReadonlySet<number>;
  readonly #processes = new PodProcesses();

  /** `hostInodes`: namespaces that are never a pod's, besides the agent's own. */
  constructor(
    private readonly access: NetnsAccess,
    private readonly claims: Claims,
    hostInodes: readonly number[],
  ) {
    this.#forbidden = new Set([access.currentNetnsInode(), ...hostInodes]);
  }

  /**
   * Opens and verifies a pod's namespace and claims it and the pod's addresses. The descriptor is the
   * caller's to give back with `release`. Throws `not_found`, `conflict` or `forbidden`, with nothing claimed.
   */
  async pair(pod: EnrolledPod): Promise<PairedNetns> {
    if (pod.netns === undefined) {
      throw new MeltemiError("not_found", "the pod names no network namespace", {
        hint: "set the annotation meltemi.io/netns to a name as in `ip netns`, or a path",
      });
    }
    const netns = openFirst(this.access, pod.netns);
    try {
      this.#refuseHost(pod, netns);
      this.#processes.refuseAnother(pod.key, pod.netns);
      this.#refuseOther(pod, netns);
      await this.#verifyAddresses(pod, netns);
      for (const ip of pod.ips) this.claims.take("address", ip, pod.key);
      this.claims.take("network namespace", String(netns.inode), pod.key);
      return netns;
    } catch (error) {
      this.release(pod, netns);
      throw error;
    }
  }

  /** Whether the name still means this namespace. */
  #verifyName(pod: EnrolledPod, netns: Netns): "same" | "other_namespace" | "not_verified" {
    try {
      const now = openFirst(this.access, pod.netns ?? "");
      this.access.closeFd(now.fd);
      return now.inode === netns.inode ? "same" : "other_namespace";
    } catch (error) {
      return error instanceof MeltemiError && error.code === "not_found" ? "other_namespace" : "not_verified";
    }
  }

  /**
   * Whether the pairing still holds: the name still means this namespace, which still has the addresses. `not_verified`
   * where the kernel could not be asked; the descriptor held pins the namespace, so nobody else can have taken it.
   */
  async verify(
    pod: EnrolledPod,
    netns: Netns,
  ): Promise<"same" | "other_namespace" | "address_gone" | "not_verified"> {
    const name = this.#verifyName(pod, netns);
    if (name !== "same") return name;
    try {
      await this.#verifyAddresses(pod, netns);
      return "same";
    } catch (error) {
      return error instanceof MeltemiError && error.code === "conflict" ? "address_gone" : "not_verified";
    }
  }

  /** All addresses of the namespace's interfaces but lo: those that the pod is known by first. */
  async addresses(netns: Netns, pod: EnrolledPod): Promise<readonly string[]> {
    const present = await this.access.netnsAddresses(netns.fd);
    const found = present
      .filter((entry) => entry.interface !== "lo")
      .map(({ address }) => canonicalIp(address) ?? address);
    const known = pod.ips.map((ip) => canonicalIp(ip) ?? ip).filter((ip) => found.includes(ip));
    return [...new Set([...known, ...found.sort()])];
  }

  /** The pod has left: one of its name may be another, with other processes. */
  forget(pod: EnrolledPod): void {
    this.#processes.forget(pod.key);
  }

  release(pod: EnrolledPod, netns: Netns): void {
    this.claims.releaseAll(pod.key);
    this.access.closeFd(netns.fd);
  }

  #refuseHost(pod: EnrolledPod, netns: Netns): void {
    if (!this.#forbidden.has(netns.inode)) return;
    throw new MeltemiError(
      "forbidden",
      `network namespace "${pod.netns ?? ""}" is the node's own, not a pod's`,
      {
        hint: "a host-network pod has no identity of its own; give the pod a namespace",
      },
    );
  }

  /** The path may mean another namespace by now. */
  #refuseOther(pod: EnrolledPod, netns: Netns): void {
    if (pod.netnsInode === undefined || pod.netnsInode === netns.inode) return;
    throw new MeltemiError(
      "conflict",
      `network namespace "${pod.netns ?? ""}" has inode ${netns.inode}, and the runtime told of ${pod.netnsInode}`,
      { hint: "the pod's sandbox was replaced, or the agent sees other files than the runtime at that path" },
    );
  }

  async #verifyAddresses(pod: EnrolledPod, netns: Netns): Promise<void> {
    const present = await this.access.netnsAddresses(netns.fd);
    for (const ip of pod.ips) {
      if (present.some((entry) => entry.interface !== "lo" && sameAddress(entry.address, ip))) continue;
      const have = present.filter((entry) => entry.interface !== "lo").map((entry) => entry.address);
      throw new MeltemiError(
        "conflict",
        `the pod's address ${ip} is on no interface of network namespace "${pod.netns ?? ""}" (it has ${have.join(", ") || "none"})`,
        {
          hint: "status.podIP and meltemi.io/netns must belong together; the pod is not served until they do",
        },
      );
    }
  }
}
