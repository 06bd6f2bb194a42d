/**
 * The control plane's TLS listeners under one gRPC server: TCP, and a Unix socket that every
 * network namespace reaches. The server certificate comes from the mesh's own CA, and is replaced
 * at half its life and at each change of trust, for new connections only.
 */
import { ServerCredentials, type Server } from "@grpc/grpc-js";
import { rmSync } from "node:fs";
import { isIP, type AddressInfo, type Socket } from "node:net";
import { createServer, type Server as TlsServer } from "node:tls";
import { MeltemiError, messageOf } from "../../domain/error.js";
import type { Clock } from "../../platform/clock.js";
import type { Logger } from "../../platform/logger.js";
import type { Authority } from "../authority.js";
import type { AltName } from "../certificate.js";
import type { Strangers } from "./strangers.js";

export type ListenAddress =
  | { readonly type: "tcp"; readonly host: string; readonly port: number }
  | { readonly type: "unix"; readonly path: string };

export interface TlsListenerOptions {
  readonly server: Server;
  readonly authority: Authority;
  readonly addresses: readonly ListenAddress[];
  /** Host names and IP addresses that the certificate is valid for, besides the addresses listened on. */
  readonly names: readonly string[];
  /** Bounds the TCP connections that nobody has authenticated on; the Unix socket is the mesh's own. */
  readonly strangers: Strangers;
  readonly clock: Clock;
  readonly log: Logger;
  /** Ends listening; calls under way get `graceMs`. */
  readonly signal: AbortSignal;
  readonly graceMs: number;
}

/** A client that has not finished its handshake by then is cut off. */
const handshakeTimeoutMs = 10_000;
/** Names under which ztunnels and our agents know a control plane. */
export const controlPlaneNames: readonly string[] = [
  "istiod.istio-system.svc",
  "istiod.istio-system.svc.cluster.local",
  "meltemi.meltemi-system.svc",
  "meltemi.meltemi-system.svc.cluster.local",
  "localhost",
  "127.0.0.1",
  "::1",
];

const altName = (name: string): AltName =>
  isIP(name) === 0 ? { type: "dns", value: name } : { type: "ip", value: name };
const wildcardAddresses: ReadonlySet<string> = new Set(["", "0.0.0.0", "::"]);

function namesFor(options: TlsListenerOptions): AltName[] {
  const listened = options.addresses.flatMap((address) =>
    address.type === "tcp" && !wildcardAddresses.has(address.host) ? [address.host] : [],
  );
  return [...new Set([...controlPlaneNames, ...options.names, ...listened])].map(altName);
}

function listen(server: TlsServer, address: ListenAddress): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", (error) => {
      const where = address.type === "tcp" ? `${address.host}:${address.port}` : address.path;
      reject(
        new MeltemiError("system", `cannot listen on ${where}: ${messageOf(error)}`, {
          hint: "is another control plane running? choose another --listen",
          cause: error,
        }),
      );
    });
    if (address.type === "tcp") server.listen({ host: address.host, port: address.port }, resolve);
    else {
      // Ours alone by the directory's mode; what a killed process left is in the way.
      rmSync(address.path, { force: true });
      server.listen({ path: address.path }, resolve);
    }
  });
}

/** Starts to listen. Resolves with the TCP ports that were given, in the order of `addresses`. Throws `system` when it cannot. */
export async function listenTls(
  options: TlsListenerOptions,
): Promise<{ readonly ports: readonly number[]; readonly ended: Promise<void> }> {
  const { server, authority, clock, log, signal } = options;
  const injector = server.createConnectionInjector(ServerCredentials.createInsecure());
  const names = namesFor(options);
  const context = (): { cert: string; key: string; notAfterMs: number } => {
    const { chain, key, notAfterMs } = authority.issueServer(names);
    return { cert: chain.join(""), key, notAfterMs };
  };

  const first = context();
  const listeners = options.addresses.map(({ type }) => {
    const { cert, key } = first;
    const tls = createServer({
      cert,
      key,
      minVersion: "TLSv1.3",
      ALPNProtocols: ["h2"],
      handshakeTimeout: handshakeTimeoutMs,
    });
    if (type === "tcp") tls.prependListener("connection", (socket: Socket) => options.strangers.add(socket));
    tls.on("secureConnection", (socket) => {
      socket.on("error", (error) => log.debug("connection failed", { error: messageOf(error) }));
      injector.injectConnection(socket);
    });
    tls.on("tlsClientError", (error, socket) =>
      log.debug("handshake failed", { peer: socket.remoteAddress, error: messageOf(error) }),
    );
    return tls;
  });
  for (const [index, address] of options.addresses.entries()) {
    const tls = listeners[index];
    if (tls) await listen(tls, address);
  }

  let cancelRenewal: () => void = () => undefined;
  const renew = (): void => {
    try {
      const { cert, key, notAfterMs } = context();
      for (const tls of listeners) tls.setSecureContext({ cert, key, minVersion: "TLSv1.3" });
      schedule(notAfterMs);
    } catch (error) {
      log.error("server certificate not renewed", { error: messageOf(error) });
      schedule(clock.now() + 2 * 60_000);
    }
  };
  const schedule = (notAfterMs: number): void => {
    cancelRenewal();
    cancelRenewal = clock.schedule(Math.max(1_000, (notAfterMs - clock.now()) / 2), renew, {
      signal,
      background: true,
    });
  };
  schedule(first.notAfterMs);
  const stopWatching = authority.onChange(renew);

  const ended = new Promise<void>((resolve) => {
    const end = (): void => {
      stopWatching();
      cancelRenewal();
      for (const tls of listeners) tls.close();
      injector.drain(options.graceMs);
      clock.schedule(options.graceMs, () => {
        injector.destroy();
        resolve();
      });
    };
    if (signal.aborted) end();
    else signal.addEventListener("abort", end, { once: true });
  });
  const ports = listeners.flatMap((tls, index) =>
    options.addresses[index]?.type === "tcp" ? [(tls.address() as AddressInfo).port] : [],
  );
  return { ports, ended };
}
