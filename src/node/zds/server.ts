import { MeltemiError, messageOf } from "../../domain/error.js";
import type { Clock } from "../../platform/clock.js";
import type { Logger } from "../../platform/logger.js";
import { acceptPackets, isMalformed, type PacketAcceptor, type PacketPeer } from "../packets.js";
import { ZdsStream } from "./stream.js";
import { WorkloadTable, type ServedPod, type TableEntry } from "./table.js";

export interface ZdsDependencies {
  readonly clock: Clock;
  readonly log: Logger;
  readonly closeFd: (fd: number) => void;
  /** Whether a peer may be a data plane of ours; a refusal is counted by the callee. */
  readonly admits: (peer: { readonly uid: number; readonly pid: number }) => boolean;
  readonly ackTimeoutMs: number;
  /** A peer has sent what is no message, and is disconnected (count it: `meltemi_peer_malformed_total`). */
  readonly onMalformed: () => void;
}

/** A data plane's connection, as /status shows it. */
export interface StreamStatus {
  readonly pid: number;
  readonly live: boolean;
}

/**
 * The agent's side of `zds.sock`: any number of data planes (two during an upgrade), each told everything.
 * A pod is served when every connected data plane has acknowledged it, and there is at least one.
 */
export class ZdsServer {
  readonly #table = new WorkloadTable();
  readonly #streams = new Set<ZdsStream>();
  #awaySinceMs: number;

  constructor(private readonly dependencies: ZdsDependencies) {
    this.#awaySinceMs = dependencies.clock.monotonic();
  }

  /** For how long no data plane has been connected; 0 while there is one. */
  get awayMs(): number {
    return this.#greeted.length > 0 ? 0 : this.dependencies.clock.monotonic() - this.#awaySinceMs;
  }

  get #greeted(): readonly ZdsStream[] {
    return [...this.#streams].filter((stream) => stream.greeted);
  }

  /** Accepts until the signal aborts, then closes all connections. */
  async run(acceptor: PacketAcceptor, signal: AbortSignal): Promise<void> {
    const end = (): void => {
      acceptor.close();
      for (const stream of this.#streams) stream.close();
    };
    signal.addEventListener("abort", end, { once: true });
    const running = new Set<Promise<void>>();
    if (signal.aborted) end();
    const { admits, clock, log } = this.dependencies;
    await acceptPackets(acceptor, { clock, log, socket: "zds" }, (connection) => {
      if (signal.aborted || !admits(connection.peer)) {
        connection.close();
        return;
      }
      const served = this.#serve(connection).finally(() => running.delete(served));
      running.add(served);
    });
    signal.removeEventListener("abort", end);
    end();
    await Promise.all(running);
  }

  /**
   * Has the pod served. Resolves when the data planes have acknowledged it; rejects with `unavailable` and a
   * data plane's words when one cannot serve it, or when the signal aborts. Waits while no data plane is connected.
   */
  async serve(pod: ServedPod, signal: AbortSignal): Promise<void> {
    const entry = this.#table.put(pod);
    await this.#until(signal, () => this.#served(entry));
    if (signal.aborted) throw new MeltemiError("unavailable", "the pod is no longer to be served");
  }

  /** Resolves (with the data plane's words) when a data plane, for instance a restarted one, fails to serve the pod; never after the abort. */
  async failure(uid: string, signal: AbortSignal): Promise<string | undefined> {
    const entry = this.#table.entries.get(uid);
    let error: string | undefined;
    if (entry === undefined) return undefined;
    await this.#until(signal, () => {
      error = this.#error(entry);
      return error !== undefined;
    });
    return signal.aborted ? undefined : error;
  }

  /** Ends serving the pod. Resolves when no data plane serves it any more; a data plane that does not answer is disconnected, which tells it the same when it returns. */
  async withdraw(uid: string): Promise<void> {
    this.#table.delete(uid);
    await this.#until(undefined, () => ![...this.#streams].some((stream) => stream.tells(uid)));
  }

  get streams(): readonly StreamStatus[] {
    return [...this.#streams].map(({ pid, live }) => ({ pid, live }));
  }

  get workloads(): number {
    return this.#table.entries.size;
  }

  #served(entry: TableEntry): boolean {
    const error = this.#error(entry);
    if (error !== undefined)
      throw new MeltemiError("unavailable", `the data plane cannot serve the pod: ${error}`);
    const streams = this.#greeted;
    return streams.length > 0 && streams.every((stream) => stream.answer(entry) !== undefined);
  }

  #error(entry: TableEntry): string | undefined {
    return [...this.#streams]
      .map((stream) => stream.answer(entry)?.error)
      .find((error) => error !== undefined && error !== "");
  }

  /** Resolves when the condition holds or the signal aborts; rejects with what the condition throws. */
  #until(signal: AbortSignal | undefined, holds: () => boolean): Promise<void> {
    return new Promise((resolve, reject) => {
      const settle = (): void => {
        unsubscribe();
        signal?.removeEventListener("abort", check);
      };
      const check = (): void => {
        try {
          if (signal?.aborted !== true && !holds()) return;
          settle();
          resolve();
        } catch (error) {
          settle();
          reject(error instanceof Error ? error : new Error(messageOf(error)));
        }
      };
      const unsubscribe = this.#table.subscribe(check);
      signal?.addEventListener("abort", check);
      check();
    });
  }

  async #serve(connection: PacketPeer): Promise<void> {
    const { clock, log, closeFd, ackTimeoutMs, onMalformed } = this.dependencies;
    const stream = new ZdsStream(connection, {
      table: this.#table,
      clock,
      ackTimeoutMs,
      closeFd,
    });
    this.#streams.add(stream);
    log.info("data plane connected", { pid: stream.pid });
    try {
      await stream.run();
      log.info("data plane disconnected", { pid: stream.pid });
    } catch (error) {
      if (isMalformed(error)) onMalformed();
      log.warn("data plane disconnected", { pid: stream.pid, error: messageOf(error) });
    } finally {
      this.#streams.delete(stream);
      if (stream.greeted && this.#greeted.length === 0) this.#awaySinceMs = clock.monotonic();
      this.#table.changed();
    }
  }
}
