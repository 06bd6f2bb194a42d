import { Server } from "@grpc/grpc-js";
import { IstioCertificateServiceService } from "../../gen/istio/v1/auth/ca.js";
import type { UnixListenOptions } from "../../platform/unix-accept.js";
import { serveUnixGrpc } from "../../platform/unix-grpc.js";
import { discoveryServerOptions, type DiscoveryService } from "../../xds/discovery-service.js";
import { discoveryServiceDefinition } from "../../xds/wire.js";
import type { CertificateRelay } from "./certificate-relay.js";

/** Also told of connections that are no HTTP/2. */
export type RelayListenOptions = UnixListenOptions & { readonly onMalformed: () => void };

/** Serves `xds.sock`: discovery and certificates for the node's data planes. The kernel vouches for the peer. */
export function serveRelay(
  discovery: DiscoveryService,
  certificates: CertificateRelay,
  listen: RelayListenOptions,
): { readonly ended: Promise<void> } {
  const server = new Server(discoveryServerOptions);
  server.addService(discoveryServiceDefinition, discovery.implementation);
  server.addService(IstioCertificateServiceService, { createCertificate: certificates.createCertificate });
  return serveUnixGrpc(server, listen);
}
