/** Packet sockets (SOCK_SEQPACKET), as the agent's servers see them; the addon implements them. */
import { MeltemiError, messageOf } from "../domain/error.js";
import type { Clock } from "../platform/clock.js";
import type { Logger } from "../platform/logger.js";

export interface PacketPeer {
  readonly peer: { readonly pid: number; readonly uid: number };
  send(data: Buffer, fds: readonly number[]): Promise<void>;
  receive(maxBytes: number): Promise<Packet | null>;
  close(): void;
}

/** Its descriptors are the receiver's to close. */
export interface Packet {
  readonly data: Buffer;
  readonly fds: readonly number[];
}

export interface PacketAcceptor {
  /** `null` once closed. */
  accept(): Promise<PacketPeer | null>;
  close(): void;
}

const pauseAfterErrorMs = 1000;

/** Hands over each connection until the acceptor is closed. A failing accept (out of descriptors, for instance) is tried again, not in a spin. */
export async function acceptPackets(
  acceptor: PacketAcceptor,
  surroundings: { readonly clock: Clock; readonly log: Logger; readonly socket: string },
  onConnection: (connection: PacketPeer) => void,
): Promise<void> {
  const { clock, log, socket } = surroundings;
  for (;;) {
    try {
      const connection = await acceptor.accept();
      if (connection === null) return;
      onConnection(connection);
    } catch (error) {
      log.error("packet socket accept failed", { socket, error: messageOf(error) });
      await clock.sleep(pauseAfterErrorMs);
    }
  }
}

/** The next packet, `null` at the end. Throws `bad_input` where it is larger than allowed or brings too many descriptors (the addon has closed them). */
export async function receivePacket(connection: PacketPeer, maxBytes: number): Promise<Packet | null> {
  try {
    return await connection.receive(maxBytes);
  } catch (cause) {
    const reason = messageOf(cause);
    if (reason.startsWith("receive: the packet")) throw new MeltemiError("bad_input", reason, { cause });
    throw cause;
  }
}

/** Whether the peer is to blame: what it sent is no message. */
export const isMalformed = (error: unknown): boolean =>
  error instanceof MeltemiError && error.code === "bad_input";
