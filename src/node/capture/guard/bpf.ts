import type { CapturedPod, Counts, Guard, GuardName, LayerState, Netns, Unannounced } from "../mode.js";
import { readCounts } from "../counts.js";
import type { NodeBpf } from "../../../platform/native.js";
import { sameSettings } from "../settings.js";
import type { CaptureSettings } from "../mode.js";

/**
 * The guard by programs at the pod's links (native/bpf). What it passes belongs to a socket that the data plane
 * registered, to an exemption, or to a connection that was there before. It is in force as long as its link is:
 * neither the agent's nor the data plane's end changes that.
 */
export class BpfGuard implements Guard {
  readonly #places = new Map<number, GuardName>();
  readonly #settings = new Map<number, CaptureSettings>();

  constructor(private readonly programs: NodeBpf) {}

  place({ inode }: Netns): GuardName {
    return this.#places.get(inode) ?? "none";
  }

  async attach({ netns, settings }: CapturedPod): Promise<void> {
    const { guard } = await this.programs.attachGuard(netns.fd, netns.inode, settings);
    const places = { host: "bpf", pod: "bpf-in-pod", none: "none" } as const;
    this.#places.set(netns.inode, places[guard]);
    this.#settings.set(netns.inode, settings);
  }

  drain({ netns }: CapturedPod): Promise<void> {
    return attempt(() => void this.programs.markForDrain(netns.fd, netns.inode));
  }

  verify({ netns, settings }: CapturedPod): Promise<LayerState> {
    return attempt(() => {
      const present = this.#settings.get(netns.inode);
      if (present !== undefined && !sameSettings(present, settings)) {
        this.programs.update(netns.inode, settings);
        this.#settings.set(netns.inode, settings);
      }
      return { broken: this.programs.verify(netns.fd, netns.inode), counts: this.#counts(netns) };
    });
  }

  unannounced(): Unannounced {
    return { programs: true };
  }

  counts(netns: Netns): Promise<Counts> {
    return attempt(() => this.#counts(netns));
  }

  async detach({ inode }: Pick<Netns, "inode">): Promise<void> {
    await this.programs.detach(inode);
    this.#places.delete(inode);
    this.#settings.delete(inode);
  }

  #counts({ inode }: Netns): Counts {
    return readCounts(Object.entries(this.programs.counters(inode)));
  }
}

/** What the addon throws becomes a rejection, as everywhere in this interface. */
const attempt = <T>(work: () => T): Promise<T> => new Promise((resolve) => resolve(work()));
