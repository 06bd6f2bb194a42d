/**
 * Connections whose client has not proved to be a node yet, the oldest first. Anybody who reaches the
 * listener can open them; beyond the limit the oldest makes room, so that a flood costs bounded memory
 * and a node, which shows its token at once, still gets in.
 */
import type { Socket } from "node:net";
import type { CallerCredentials, NodeAuthenticator } from "../ports.js";

/** All of a large mesh's nodes coming back at once, with room to spare. */
const defaultLimit = 1024;

export interface StrangersOptions {
  readonly limit?: number;
  /** Hears of each connection that had to make room. */
  readonly onClosed: (peer: string) => void;
}

export class Strangers {
  readonly #sockets = new Map<string, Socket>();
  readonly #limit: number;
  readonly #onClosed: (peer: string) => void;

  constructor({ limit = defaultLimit, onClosed }: StrangersOptions) {
    this.#limit = limit;
    this.#onClosed = onClosed;
  }

  get size(): number {
    return this.#sockets.size;
  }

  /** Takes a connection as accepted, before its handshake. */
  add(socket: Socket): void {
    const { remoteAddress, remotePort } = socket;
    if (remoteAddress === undefined || remotePort === undefined) {
      socket.destroy(); // gone already
      return;
    }
    const peer = `${remoteAddress}:${remotePort}`;
    this.#sockets.set(peer, socket);
    socket.once("close", () => {
      if (this.#sockets.get(peer) === socket) this.#sockets.delete(peer);
    });
    if (this.#sockets.size <= this.#limit) return;
    const [oldest] = this.#sockets;
    if (!oldest) return;
    this.#sockets.delete(oldest[0]);
    oldest[1].destroy();
    this.#onClosed(oldest[0]);
  }

  /** An authenticator whose callers are strangers no more. `inner` says who they are. */
  knowing(inner: NodeAuthenticator): NodeAuthenticator {
    return {
      authenticate: async (credentials: CallerCredentials): Promise<string> => {
        const node = await inner.authenticate(credentials);
        // gRPC names a peer as its `ADDRESS:PORT`.
        this.#sockets.delete(credentials.peer);
        return node;
      },
    };
  }
}
