import { MeltemiError, messageOf } from "../../domain/error.js";
import type { Clock } from "../../platform/clock.js";
import type { Logger } from "../../platform/logger.js";
import {
  acceptPackets,
  isMalformed,
  receivePacket,
  type PacketAcceptor,
  type PacketPeer,
} from "../packets.js";
import { decodeDemand, encodeAnswer, maxPacketBytes } from "./messages.js";
import type { KeySafe } from "./safe.js";

export interface KeyServerDependencies {
  readonly safe: KeySafe;
  readonly closeFd: (fd: number) => void;
  /** Whether the peer is a data plane of ours; a refusal is counted by the callee. */
  readonly admits: (peer: { readonly uid: number; readonly pid: number }) => boolean | Promise<boolean>;
  /** A peer has asked what cannot be answered (count it: `meltemi_peer_malformed_total`). */
  readonly onMalformed: () => void;
  readonly clock: Clock;
  readonly log: Logger;
}

/** The agent's side of `keys.sock`. */
export class KeyServer {
  readonly #connections = new Set<PacketPeer>();

  constructor(private readonly dependencies: KeyServerDependencies) {}

  /** Accepts until the signal aborts, then closes all connections; what is kept stays kept. */
  async run(acceptor: PacketAcceptor, signal: AbortSignal): Promise<void> {
    const { clock, log } = this.dependencies;
    const end = (): void => {
      acceptor.close();
      for (const connection of this.#connections) connection.close();
    };
    signal.addEventListener("abort", end, { once: true });
    if (signal.aborted) end();
    await acceptPackets(acceptor, { clock, log, socket: "keys" }, (connection) => {
      if (signal.aborted) connection.close();
      else void this.#serve(connection);
    });
    signal.removeEventListener("abort", end);
  }

  async #serve(connection: PacketPeer): Promise<void> {
    const { admits, log, onMalformed } = this.dependencies;
    this.#connections.add(connection);
    try {
      if (!(await admits(connection.peer))) return;
      while (await this.#answer(connection));
    } catch (error) {
      if (isMalformed(error)) onMalformed();
      log.warn("keys connection closed", { pid: connection.peer.pid, error: messageOf(error) });
    } finally {
      this.#connections.delete(connection);
      connection.close();
    }
  }

  /** Answers one request; false when the peer has closed. */
  async #answer(connection: PacketPeer): Promise<boolean> {
    const { log, onMalformed } = this.dependencies;
    const packet = await receivePacket(connection, maxPacketBytes);
    if (packet === null) return false;
    const unused = [...packet.fds];
    try {
      const demand = decodeDemand(packet.data);
      switch (demand) {
        case "deposit": {
          const [fd, ...more] = unused.splice(0);
          unused.push(...more);
          if (fd === undefined || more.length > 0) {
            if (fd !== undefined) unused.push(fd);
            throw new MeltemiError("bad_input", `a deposit carries one descriptor, not ${packet.fds.length}`);
          }
          this.dependencies.safe.deposit(fd);
          await connection.send(encodeAnswer({ error: "", found: true }), []);
          break;
        }
        case "withdraw": {
          if (unused.length > 0) throw new MeltemiError("bad_input", "a withdrawal carries no descriptor");
          const { fd } = this.dependencies.safe;
          await connection.send(
            encodeAnswer({ error: "", found: fd !== undefined }),
            fd === undefined ? [] : [fd],
          );
          break;
        }
      }
    } catch (error) {
      if (!(error instanceof MeltemiError)) throw error;
      log.warn("key request refused", { pid: connection.peer.pid, error: error.message });
      if (isMalformed(error)) onMalformed();
      await connection.send(encodeAnswer({ error: error.message, found: false }), []);
    } finally {
      for (const fd of unused) this.dependencies.closeFd(fd);
    }
    return true;
  }
}
