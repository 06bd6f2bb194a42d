import { messageOf } from "../../domain/error.js";
import type { Cancel, Clock } from "../../platform/clock.js";
import type { Files } from "../../platform/files.js";
import type { Logger } from "../../platform/logger.js";
import type { Asking } from "../enrol/desired.js";

/** The list's text (docs/cni.md, "The list"), read by native/crates/cni/src/list.rs. */
export function listText({ never, namespaces, pods }: Asking): string {
  const sorted = <T>(map: ReadonlyMap<string, T>): Record<string, T> =>
    Object.fromEntries([...map].sort(([a], [b]) => (a < b ? -1 : 1)));
  return `${JSON.stringify({ version: 1, never, namespaces: sorted(namespaces), pods: sorted(pods) })}\n`;
}

/** Changes come in bursts, and each list is written and synced as a whole. */
const settleMs = 50;
/** A full disk has room again without a word. */
const retryMs = 5_000;

/**
 * Keeps the list of who asks for the mesh, for the plugin to decide by while no agent answers. It lies in the state
 * directory: after a reboot the node's pods start again, some of them before the agent.
 */
export class AskingList {
  #written: string | undefined;
  #removed = false;
  #cancel: Cancel | undefined;
  #writing: Promise<void> = Promise.resolve();

  /** @param asking undefined before the first state is known: an earlier agent's list stays until then */
  constructor(
    private readonly path: string,
    private readonly asking: () => Asking | undefined,
    private readonly files: Files,
    private readonly clock: Clock,
    private readonly log: Logger,
  ) {}

  /** Writes soon what has changed: once for many changes. */
  changed(): void {
    this.#schedule(settleMs);
  }

  #schedule(delayMs: number): void {
    this.#cancel ??= this.clock.schedule(delayMs, () => {
      this.#cancel = undefined;
      this.#writing = this.#writing.then(() => this.#write());
    });
  }

  /** Writes what has changed now. */
  async flush(): Promise<void> {
    this.#stop();
    this.#writing = this.#writing.then(() => this.#write());
    await this.#writing;
  }

  /** Takes the list away, when nobody is left to read it. */
  async remove(): Promise<void> {
    this.#stop();
    this.#removed = true;
    await this.#writing;
    await this.files.remove(this.path);
  }

  #stop(): void {
    this.#cancel?.();
    this.#cancel = undefined;
  }

  async #write(): Promise<void> {
    const asking = this.asking();
    const text = asking && listText(asking);
    if (this.#removed || text === undefined || text === this.#written) return;
    try {
      await this.files.writeAtomic(this.path, text);
      this.#written = text;
    } catch (error) {
      this.log.error("list for the CNI plugin not written", { path: this.path, error: messageOf(error) });
      this.#schedule(retryMs);
    }
  }
}
