import { messageOf } from "../../../domain/error.js";
import { every, type Clock } from "../../../platform/clock.js";
import type { Logger } from "../../../platform/logger.js";
import type { Random } from "../../../platform/random.js";
import type { CapturedPod, Netns } from "../mode.js";
import { OwnTable } from "../nftables/table.js";
import type { Tools } from "../tool.js";
import type { OpenWatch } from "../watch.js";
import { hostScript, hostTable, type ProbedPod } from "./table.js";
import { makeToken, type ProbeToken } from "./token.js";

export interface HostProbesParts {
  readonly node: string;
  /** The namespace whose processes' connections are the host's: the agent's own. */
  readonly host: Netns;
  readonly tools: Tools;
  readonly watch: OpenWatch;
  readonly random: Random;
  readonly clock: Clock;
  readonly log: Logger;
  readonly intervalMs: number;
  readonly onRepair: (part: string) => void;
}

/**
 * Has the host's own connections to pods (the kubelet's probes) recognised where the guard has no BPF: by a table
 * in the host's namespace, kept in force against whoever flushes it.
 */
export class HostProbes {
  readonly #pods = new Map<number, ProbedPod>();
  readonly #table: OwnTable;
  #loading: Promise<void> = Promise.resolve();
  #queued: Promise<void> | undefined;
  #loaded: string | undefined;

  constructor(private readonly parts: HostProbesParts) {
    this.#table = new OwnTable(parts.tools, hostTable(parts.node));
  }

  /** The pod's token, written by the host when this resolves; undefined where the host cannot. */
  async token({ netns, settings }: CapturedPod): Promise<ProbeToken | undefined> {
    const present = this.#pods.get(netns.inode);
    const token = present?.token ?? makeToken(this.parts.random);
    const { addresses } = settings;
    if (present === undefined || present.addresses.join() !== addresses.join())
      this.#pods.set(netns.inode, { inode: netns.inode, addresses, token });
    try {
      await this.load();
      return token;
    } catch (error) {
      this.parts.log.warn("host's probes not marked", { error: messageOf(error) });
      return undefined;
    }
  }

  async forget(inode: number): Promise<void> {
    if (!this.#pods.delete(inode)) return;
    await this.load().catch((error: unknown) => {
      this.parts.log.warn("host's table not changed", { error: messageOf(error) });
    });
  }

  /** Makes the table say what is known now; without pods there is none. Changes that come together are one. */
  load(): Promise<void> {
    this.#queued ??= this.#loading
      .catch(() => undefined)
      .then(() => {
        this.#queued = undefined;
        return (this.#loading = this.#apply());
      });
    return this.#queued;
  }

  async #apply(): Promise<void> {
    const script = hostScript(this.parts.node, [...this.#pods.values()]);
    if (script === this.#loaded) return;
    if (this.#pods.size === 0) await this.parts.tools.must(this.parts.host, "nft", ["-f", "-"], script);
    else await this.#table.load(this.parts.host, script);
    this.#loaded = script;
  }

  /** Watches over the table until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    const { watch, host, clock, intervalMs, log } = this.parts;
    const changes = await watch(host);
    const close = (): void => changes?.close();
    if (signal.aborted) close();
    else signal.addEventListener("abort", close);
    const onError = (error: unknown): void =>
      log.warn("host's table not verified", { error: messageOf(error) });
    const following = (async () => {
      while (await changes?.next()) await this.#verify().catch(onError);
    })().catch(onError);
    const rounds = every(clock, intervalMs, () => this.#verify(), { signal, background: true, onError });
    await Promise.all([following, rounds]);
  }

  /** In turn with the changes: a listing from before one would look like damage. */
  #verify(): Promise<void> {
    return (this.#loading = this.#loading.catch(() => undefined).then(() => this.#compare()));
  }

  async #compare(): Promise<void> {
    const script = this.#loaded;
    if (script === undefined || this.#pods.size === 0) return;
    const broken = this.#table.broken(await this.#table.listing(this.parts.host), script);
    if (broken.length === 0) return;
    await this.#table.load(this.parts.host, script);
    this.parts.onRepair("host table missing");
    this.parts.log.warn("capture repaired", { host: this.parts.node, broken });
  }
}
