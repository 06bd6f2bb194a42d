import { ServerCredentials, type ConnectionInjector, type Server } from "@grpc/grpc-js";
import { acceptChecked, type UnixListenOptions } from "./unix-accept.js";

/**
 * Feeds a gRPC server with the connections of a Unix socket whose peers' credentials are accepted (cleartext HTTP/2: the
 * kernel vouches for the peer). Handlers are added to `server` as usual; it needs no `bindAsync`. When the signal comes,
 * open streams get GOAWAY and `graceMs`, then end.
 */
export function serveUnixGrpc(
  server: Server,
  options: UnixListenOptions & { readonly graceMs?: number },
): { readonly ended: Promise<void> } {
  const injector: ConnectionInjector = server.createConnectionInjector(ServerCredentials.createInsecure());
  const accepting = acceptChecked(options, (socket) => injector.injectConnection(socket));
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
