import { readTcpTable } from "../carried.js";
import type { HostProbes } from "../host/probes.js";
import type { CapturedPod, Counts, Guard, LayerState, Netns, Unannounced } from "../mode.js";
import { OwnTable } from "../nftables/table.js";
import type { ReadTcpTable } from "../pod-capture.js";
import type { Tools } from "../tool.js";
import { guardScript, guardTable, readBefore, removeGuardScript, type Tuple } from "./nftables-ruleset.js";

/** The guard where BPF is missing: by marks, and the weaker for it. */
export class NftablesGuard implements Guard {
  readonly #table: OwnTable;
  readonly #before = new Map<number, readonly Tuple[]>();

  constructor(
    private readonly tools: Tools,
    private readonly probes: HostProbes,
    private readonly tcpTable: ReadTcpTable,
  ) {
    this.#table = new OwnTable(tools, guardTable);
  }

  place(): "nftables" {
    return "nftables";
  }

  async attach(pod: CapturedPod): Promise<void> {
    if (!this.#before.has(pod.netns.inode))
      this.#before.set(pod.netns.inode, await this.#existing(pod.netns));
    await this.#table.load(pod.netns, await this.#script(pod));
  }

  async drain({ netns }: CapturedPod): Promise<void> {
    await this.#remove(netns);
  }

  async verify(pod: CapturedPod): Promise<LayerState> {
    const listing = await this.#table.listing(pod.netns);
    const broken = this.#table.broken(listing, await this.#script(pod));
    return { broken: broken.map((part) => `guard ${part}`), counts: listing?.counts ?? new Map() };
  }

  unannounced(): Unannounced {
    return {};
  }

  async counts(netns: Netns): Promise<Counts> {
    return (await this.#table.listing(netns))?.counts ?? new Map();
  }

  async detach(netns: Pick<Netns, "inode"> & Partial<Netns>): Promise<void> {
    this.#before.delete(netns.inode);
    await this.probes.forget(netns.inode);
    if (netns.fd !== undefined) await this.#remove({ ...netns, fd: netns.fd });
  }

  async #script({ netns, settings }: CapturedPod): Promise<string> {
    const token = await this.probes.token({ netns, settings });
    return guardScript({ settings, token, before: this.#before.get(netns.inode) ?? [] });
  }

  /** A guard that an earlier agent set knows what was there before it; today's connections are not that. */
  async #existing(netns: Netns): Promise<readonly Tuple[]> {
    const present = await this.tools.ask(netns, "nft", ["list", "table", "inet", guardTable]);
    if (present !== undefined) return readBefore(present);
    return readTcpTable(await this.tcpTable(netns.fd)).filter(({ open }) => open);
  }

  async #remove(netns: Netns): Promise<void> {
    await this.tools.must(netns, "nft", ["-f", "-"], removeGuardScript);
  }
}
