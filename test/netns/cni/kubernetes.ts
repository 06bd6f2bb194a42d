/** An API server as far as the plugin looks: TLS under a CA of its own, bearer tokens, pods and namespaces. */
import "reflect-metadata";
import { webcrypto } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { createServer } from "node:https";
import { join } from "node:path";
import * as x509 from "@peculiar/x509";

interface Meta {
  readonly uid?: string;
  readonly labels?: Readonly<Record<string, string>>;
}

export interface FakeApi {
  /** `127.0.0.1:PORT`. */
  readonly server: string;
  readonly caFile: string;
  readonly tokenFile: string;
  /** Paths that were asked for. */
  readonly asked: string[];
  /** Objects by their path below `/api/v1/namespaces/`; `hang` is never answered. */
  readonly objects: Map<string, Meta | "hang">;
  close(): Promise<void>;
}

const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };

const makeKeys = () => webcrypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);

async function certificates(): Promise<{ ca: string; cert: string; key: string }> {
  x509.cryptoProvider.set(webcrypto);
  const [caKeys, keys] = await Promise.all([makeKeys(), makeKeys()]);
  const validity = { notBefore: new Date(Date.now() - 60_000), notAfter: new Date(Date.now() + 3_600_000) };
  const ca = await x509.X509CertificateGenerator.createSelfSigned({
    ...validity,
    name: "CN=test-ca",
    keys: caKeys,
    signingAlgorithm: algorithm,
    extensions: [new x509.BasicConstraintsExtension(true, undefined, true)],
  });
  const leaf = await x509.X509CertificateGenerator.create({
    ...validity,
    subject: "CN=kube-apiserver",
    issuer: ca.subject,
    publicKey: keys.publicKey,
    signingKey: caKeys.privateKey,
    signingAlgorithm: algorithm,
    extensions: [new x509.SubjectAlternativeNameExtension([{ type: "ip", value: "127.0.0.1" }])],
  });
  const pkcs8 = Buffer.from(await webcrypto.subtle.exportKey("pkcs8", keys.privateKey)).toString("base64");
  return {
    ca: ca.toString("pem"),
    cert: leaf.toString("pem"),
    key: `-----BEGIN PRIVATE KEY-----\n${pkcs8}\n-----END PRIVATE KEY-----\n`,
  };
}

/** Files of it lie in `directory`. */
export async function startApi(directory: string): Promise<FakeApi> {
  mkdirSync(directory, { recursive: true });
  const { ca, cert, key } = await certificates();
  const [caFile, tokenFile] = [join(directory, "ca.pem"), join(directory, "token")];
  writeFileSync(caFile, ca);
  writeFileSync(tokenFile, "the-token\n");
  const asked: string[] = [];
  const objects: FakeApi["objects"] = new Map();
  const server = createServer({ cert, key }, (request, response) => {
    const path = (request.url ?? "").replace("/api/v1/namespaces/", "");
    asked.push(path);
    const answer = (status: number, body: unknown): void => {
      const text = JSON.stringify(body);
      response.writeHead(status, { "content-length": Buffer.byteLength(text) }).end(text);
    };
    const metadata = objects.get(path);
    if (request.headers.authorization !== "Bearer the-token") answer(401, {});
    else if (metadata === undefined) answer(404, {});
    else if (metadata !== "hang") answer(200, { metadata, spec: {} });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as { port: number };
  return {
    server: `127.0.0.1:${port}`,
    caFile,
    tokenFile,
    asked,
    objects,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
