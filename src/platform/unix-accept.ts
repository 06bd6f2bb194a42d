import { Socket } from "node:net";
import type { Clock } from "./clock.js";
import type { NativeAddon, PeerCredentials } from "./native-addon.js";

/** Where accepted connections come from, who may connect, and what is told about the others. */
export interface UnixListenOptions {
  readonly native: NativeAddon;
  readonly clock: Clock;
  readonly path: string;
  /** Permission bits of the socket file; 0600 when absent. */
  readonly mode?: number;
  /** Who may connect; our own uid and root when absent. */
  readonly allow?: (peer: PeerCredentials) => boolean;
  /** A connection was closed because of its credentials (count it: `meltemi_peer_refused_total`). */
  readonly onRefused: (peer: PeerCredentials) => void;
  /** Accepting failed, for example for want of descriptors; it is tried again after a pause. */
  readonly onError: (error: unknown) => void;
  /** Ends the listener and removes the socket file; connections accepted before go on. */
  readonly signal: AbortSignal;
}

const pauseAfterErrorMs = 100;

/** The rule of docs/node-interfaces.md: the owner and root, nobody else. */
export function isOwnerOrRoot(peer: PeerCredentials): boolean {
  return peer.uid === 0 || peer.uid === process.geteuid?.();
}

/**
 * Listens on a Unix stream socket and hands over each connection whose credentials are accepted. Listening has begun when
 * this returns; the promise in the result resolves when the listener has ended.
 * @throws Error when the path cannot be bound (another process serves it, for instance)
 */
export function acceptChecked(
  options: UnixListenOptions,
  onConnection: (socket: Socket, peer: PeerCredentials) => void,
): { readonly ended: Promise<void> } {
  const { native, path, mode = 0o600, allow = isOwnerOrRoot, signal } = options;
  const listener = native.StreamListener.bind(path, mode);
  const close = (): void => listener.close();
  if (signal.aborted) close();
  signal.addEventListener("abort", close, { once: true });

  const loop = async (): Promise<void> => {
    for (;;) {
      try {
        const accepted = await listener.accept();
        if (accepted === null) return;
        if (signal.aborted) {
          // Accepted while the listener was closing: nobody would end it.
          native.closeFd(accepted.fd);
          continue;
        }
        if (!allow(accepted.peer)) {
          native.closeFd(accepted.fd);
          options.onRefused(accepted.peer);
          continue;
        }
        onConnection(new Socket({ fd: accepted.fd, readable: true, writable: true }), accepted.peer);
      } catch (error) {
        options.onError(error);
        await options.clock.sleep(pauseAfterErrorMs, { signal }).catch(() => undefined);
      }
    }
  };
  return { ended: loop().finally(() => signal.removeEventListener("abort", close)) };
}
