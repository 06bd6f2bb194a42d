/** Certificate requests as a data plane sends them, made with a library that the CA does not use. */
import * as x509 from "@peculiar/x509";
import { webcrypto } from "node:crypto";

type Algorithm = {
  readonly name: string;
  readonly namedCurve?: string;
  readonly hash: string;
  readonly modulusLength?: number;
  readonly publicExponent?: Uint8Array;
};

export const p256: Algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
export const p384: Algorithm = { name: "ECDSA", namedCurve: "P-384", hash: "SHA-384" };
export const rsa2048: Algorithm = {
  name: "RSASSA-PKCS1-v1_5",
  hash: "SHA-256",
  modulusLength: 2048,
  publicExponent: new Uint8Array([1, 0, 1]),
};

export interface RequestOptions {
  readonly algorithm?: Algorithm;
  readonly subject?: string;
  readonly uris?: readonly string[];
  /** Ask to be a CA, which must not be honoured. */
  readonly askCa?: boolean;
}

/** A PEM request and the private key that made it. */
export async function makeRequest(options: RequestOptions = {}): Promise<{ pem: string; key: string }> {
  x509.cryptoProvider.set(webcrypto);
  const algorithm = options.algorithm ?? p256;
  const keys = (await webcrypto.subtle.generateKey(algorithm, true, [
    "sign",
    "verify",
  ])) as webcrypto.CryptoKeyPair;
  const extensions: x509.Extension[] = [];
  if (options.uris && options.uris.length > 0) {
    extensions.push(
      new x509.SubjectAlternativeNameExtension(
        options.uris.map((value) => ({ type: "url" as const, value })),
      ),
    );
  }
  if (options.askCa) extensions.push(new x509.BasicConstraintsExtension(true, 3, true));
  const request = await x509.Pkcs10CertificateRequestGenerator.create({
    ...(options.subject === undefined ? {} : { name: options.subject }),
    keys,
    signingAlgorithm: algorithm,
    extensions,
  });
  const pkcs8 = Buffer.from(await webcrypto.subtle.exportKey("pkcs8", keys.privateKey)).toString("base64");
  return {
    pem: request.toString("pem"),
    key: `-----BEGIN PRIVATE KEY-----\n${pkcs8}\n-----END PRIVATE KEY-----\n`,
  };
}
