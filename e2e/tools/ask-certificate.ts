/**
 * Asks a control plane for a certificate with whatever token one has, as a data plane does.
 * usage: ask-certificate.js HOST:PORT SERVER_NAME ROOTS_FILE TOKEN_FILE IDENTITY...
 * Prints a line for each identity: `IDENTITY issued` or `IDENTITY CODE`, the gRPC code by name.
 */
import "reflect-metadata";
import { credentials, Metadata, status, type ServiceError } from "@grpc/grpc-js";
import { readFileSync } from "node:fs";
import { IstioCertificateServiceClient } from "../../src/gen/istio/v1/auth/ca.js";
import { makeRequest } from "../../test/helpers/csr.js";

const [address = "", serverName = "", rootsFile = "", tokenFile = "", ...identities] = process.argv.slice(2);
const client = new IstioCertificateServiceClient(address, credentials.createSsl(readFileSync(rootsFile)), {
  "grpc.ssl_target_name_override": serverName,
});
const metadata = new Metadata();
metadata.set("authorization", `Bearer ${readFileSync(tokenFile, "utf8").trim()}`);
for (const identity of identities) {
  const { pem } = await makeRequest({ uris: [identity] });
  const request = { csr: pem, validityDuration: 600, metadata: { ImpersonatedIdentity: identity } };
  const outcome = await new Promise<string>((resolve) =>
    client.createCertificate(
      request,
      metadata,
      { deadline: Date.now() + 20_000 },
      (error: ServiceError | null) => resolve(error === null ? "issued" : status[error.code]),
    ),
  );
  process.stdout.write(`${identity} ${outcome}\n`);
}
client.close();
