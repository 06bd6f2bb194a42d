import type { Metadata } from "@grpc/grpc-js";
import type { Cancel, Clock } from "../../platform/clock.js";
import type { Upstream } from "../../xds/client.js";

/** For how long a connection stays without a call: those of a crowd come one after the other. */
const idleMs = 2_000;
/** After that time the files that say how to connect are read anew (tokens and roots are replaced). */
const freshMs = 10_000;

interface Connection<C> {
  readonly client: C;
  readonly metadata: Metadata;
  readonly sinceMs: number;
  calls: number;
  /** For no further calls: closed with the last one. */
  retired: boolean;
  closed: boolean;
}

/**
 * One client for calls that come together: hundreds of pods that join at once would else each have a connection of
 * its own, with a handshake and tens of kilobytes. None is kept for long, and none that has failed.
 */
export class SharedClient<C extends { close(): void }> {
  #present: Promise<Connection<C>> | undefined;
  #cancelIdle: Cancel = () => undefined;

  constructor(
    private readonly parts: {
      readonly upstream: () => Promise<Upstream>;
      readonly connect: (upstream: Upstream) => C;
      readonly clock: Clock;
      /** Whether a call's failure says nothing about the connection. */
      readonly isAnswer: (error: unknown) => boolean;
    },
  ) {}

  async call<T>(ask: (client: C, metadata: Metadata) => Promise<T>): Promise<T> {
    const connection = await this.#connection();
    try {
      return await ask(connection.client, connection.metadata);
    } catch (error) {
      if (!this.parts.isAnswer(error)) connection.retired = true;
      throw error;
    } finally {
      connection.calls -= 1;
      this.#rest(connection);
    }
  }

  /**
   * Has the call counted already: between the choice of a connection and its use others' calls may fail and end, and
   * would close it.
   */
  async #connection(): Promise<Connection<C>> {
    for (;;) {
      const present = (this.#present ??= this.#open());
      let connection: Connection<C>;
      try {
        connection = await present;
      } catch (error) {
        if (this.#present === present) this.#present = undefined;
        throw error;
      }
      if (this.parts.clock.monotonic() - connection.sinceMs >= freshMs) connection.retired = true;
      if (!connection.retired) {
        connection.calls += 1;
        return connection;
      }
      if (this.#present === present) this.#present = undefined;
      this.#rest(connection);
    }
  }

  async #open(): Promise<Connection<C>> {
    const upstream = await this.parts.upstream();
    return {
      client: this.parts.connect(upstream),
      metadata: upstream.metadata,
      sinceMs: this.parts.clock.monotonic(),
      calls: 0,
      retired: false,
      closed: false,
    };
  }

  #rest(connection: Connection<C>): void {
    if (connection.calls > 0 || connection.closed) return;
    if (connection.retired) {
      connection.closed = true;
      connection.client.close();
      return;
    }
    this.#cancelIdle();
    const over = (): void => {
      connection.retired = true;
      this.#rest(connection);
    };
    this.#cancelIdle = this.parts.clock.schedule(
      idleMs,
      () => {
        if (connection.calls === 0) over();
      },
      { background: true },
    );
  }
}
