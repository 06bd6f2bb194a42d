import { ServerCredentials, type ConnectionInjector, type Server } from "@grpc/grpc-js";
import { beginningOf } from "./http2-preface.js";
import { acceptChecked, type UnixListenOptions } from "./unix-accept.js";

/** For a client's first bytes. */
const beginningDeadlineMs = 10_000;

/**
 * Feeds a gRPC server with the connections of a Unix socket whose peers' credentials are accepted (cleartext HTTP/2: the
 * kernel vouches for the peer). Handlers are added to `server` as usual; it needs no `bindAsync`. When the signal comes,
 * open streams get GOAWAY and `graceMs`, then end. A connection that does not begin as HTTP/2 is closed, and
 * `onMalformed` told (count it: `meltemi_peer_malformed_total`); one that begins with nothing is closed after a while.
 */
export function serveUnixGrpc(
  server: Server,
  options: UnixListenOptions & { readonly graceMs?: number; readonly onMalformed?: () => void },
): { readonly ended: Promise<void> } {
  const injector: ConnectionInjector = server.createConnectionInjector(ServerCredentials.createInsecure());
  const accepting = acceptChecked(options, (socket) => {
    void beginningOf(socket, options.clock, beginningDeadlineMs, options.signal).then((beginning) => {
      if (beginning === "http2") {
        injector.injectConnection(socket);
        return;
      }
      socket.destroy();
      if (beginning === "malformed") options.onMalformed?.();
    });
  });
  return {
    ended: accepting.ended.then(async () => {
      injector.drain(options.graceMs ?? 0);
      // After the grace time the injector destroys what is left; the same clock tells when.
      await options.clock.sleep(options.graceMs ?? 0);
      injector.destroy();
    }),
  };
}

/** The target under which grpc-js reaches a Unix socket. */
export function unixTarget(path: string): string {
  return path.startsWith("/") ? `unix://${path}` : `unix:${path}`;
}
