/** Making a root and an issuing key of our own. */
import { generateKeyPairSync, randomBytes, X509Certificate, type KeyObject } from "node:crypto";
import { buildCertificate, privateKeyPem, publicKeyDer, toPem } from "./certificate.js";
import { issuerOf } from "./issuer-name.js";
import type { KeyFiles } from "./key-material.js";

const dayMs = 86_400_000;
export const rootLifetimeMs = 3650 * dayMs;
export const issuingLifetimeMs = 365 * dayMs;
/** How far clocks of nodes may be behind the CA's. */
export const clockSkewMs = 120_000;

/** A serial number: 128 random bits, the first of them 0 so that it is positive without a prefix. */
export function randomSerial(): Buffer {
  const serial = randomBytes(16);
  serial[0] = ((serial[0] ?? 0) & 0x7f) | 0x40;
  return serial;
}

const newKey = (): KeyObject => generateKeyPairSync("ec", { namedCurve: "prime256v1" }).privateKey;

function issuingFiles(
  trustDomain: string,
  root: X509Certificate,
  rootKey: KeyObject,
  nowMs: number,
): KeyFiles {
  const key = newKey();
  const serial = randomSerial();
  const certificate = toPem(
    "CERTIFICATE",
    buildCertificate(
      {
        role: { type: "issuing" },
        subject: {
          organization: trustDomain,
          commonName: `Meltemi issuing CA ${serial.toString("hex").slice(0, 8)}`,
        },
        altNames: [],
        publicKey: publicKeyDer(key),
        serial,
        notBeforeMs: nowMs - clockSkewMs,
        notAfterMs: Math.min(nowMs + issuingLifetimeMs, Date.parse(root.validTo)),
      },
      issuerOf(root, rootKey),
    ),
  );
  return {
    "root-cert.pem": root.toString(),
    "ca-cert.pem": certificate,
    "ca-key.pem": privateKeyPem(key),
    "cert-chain.pem": certificate,
    "root-key.pem": privateKeyPem(rootKey),
  };
}

/** A new root with a first issuing key. */
export function generateRoot(trustDomain: string, nowMs: number): KeyFiles {
  const key = newKey();
  const serial = randomSerial();
  const der = buildCertificate(
    {
      role: { type: "root" },
      subject: {
        organization: trustDomain,
        commonName: `Meltemi root CA ${serial.toString("hex").slice(0, 8)}`,
      },
      altNames: [],
      publicKey: publicKeyDer(key),
      serial,
      notBeforeMs: nowMs - clockSkewMs,
      notAfterMs: nowMs + rootLifetimeMs,
    },
    { selfKey: key },
  );
  return issuingFiles(trustDomain, new X509Certificate(der), key, nowMs);
}

/** A new issuing key under a root that we have the key of. */
export function generateIssuing(
  trustDomain: string,
  root: X509Certificate,
  rootKey: KeyObject,
  nowMs: number,
): KeyFiles {
  return issuingFiles(trustDomain, root, rootKey, nowMs);
}
