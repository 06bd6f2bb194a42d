/** Building X.509 certificates (RFC 5280) of the mesh's own few shapes. */
import { createHash, createPublicKey, sign, type KeyObject } from "node:crypto";
import { isIPv4 } from "node:net";
import {
  bitString,
  boolean,
  context,
  contextPrimitive,
  integer,
  octetString,
  oid,
  sequence,
  set,
  time,
  utf8,
} from "./der.js";

export type AltName =
  | { readonly type: "uri"; readonly value: string }
  | { readonly type: "dns"; readonly value: string }
  | { readonly type: "ip"; readonly value: string };

/** What a certificate may be used for. */
export type CertificateRole =
  | { readonly type: "root" }
  /** Signs leaves only (path length 0). */
  | { readonly type: "issuing" }
  /** A workload: client and server. */
  | { readonly type: "workload" }
  /** The control plane's listener. */
  | { readonly type: "server" };

export interface CertificateTemplate {
  readonly role: CertificateRole;
  /** Organization and common name; undefined leaves the subject empty, and the alternative names critical. */
  readonly subject: { readonly organization: string; readonly commonName: string } | undefined;
  readonly altNames: readonly AltName[];
  /** SubjectPublicKeyInfo, DER. */
  readonly publicKey: Uint8Array;
  /** 128 random bits. */
  readonly serial: Uint8Array;
  /** Milliseconds since the epoch; cut to seconds. */
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
}

/** Who signs: the DER name and key identifier to write, and the key. */
export interface CertificateIssuer {
  readonly name: Uint8Array;
  readonly keyId: Uint8Array;
  readonly key: KeyObject;
}

const oids = {
  ecdsaWithSha256: oid("1.2.840.10045.4.3.2"),
  organization: oid("2.5.4.10"),
  commonName: oid("2.5.4.3"),
  subjectKeyId: oid("2.5.29.14"),
  keyUsage: oid("2.5.29.15"),
  subjectAltName: oid("2.5.29.17"),
  basicConstraints: oid("2.5.29.19"),
  authorityKeyId: oid("2.5.29.35"),
  extendedKeyUsage: oid("2.5.29.37"),
  serverAuth: oid("1.3.6.1.5.5.7.3.1"),
  clientAuth: oid("1.3.6.1.5.5.7.3.2"),
} as const;

const version3 = context(0, integer(Buffer.of(2)));
const signatureAlgorithm = sequence(oids.ecdsaWithSha256);

const extension = (id: Uint8Array, critical: boolean, value: Uint8Array): Buffer =>
  critical ? sequence(id, boolean(true), octetString(value)) : sequence(id, octetString(value));

/** Extensions that depend on the role alone, made once. */
const roleExtensions: Record<CertificateRole["type"], Buffer> = {
  root: Buffer.concat([
    extension(oids.basicConstraints, true, sequence(boolean(true))),
    extension(oids.keyUsage, true, bitString(Buffer.of(0x06), 1)),
  ]),
  issuing: Buffer.concat([
    extension(oids.basicConstraints, true, sequence(boolean(true), integer(Buffer.of(0)))),
    extension(oids.keyUsage, true, bitString(Buffer.of(0x06), 1)),
  ]),
  workload: Buffer.concat([
    extension(oids.basicConstraints, true, sequence()),
    extension(oids.keyUsage, true, bitString(Buffer.of(0x80), 7)),
    extension(oids.extendedKeyUsage, false, sequence(oids.serverAuth, oids.clientAuth)),
  ]),
  server: Buffer.concat([
    extension(oids.basicConstraints, true, sequence()),
    extension(oids.keyUsage, true, bitString(Buffer.of(0x80), 7)),
    extension(oids.extendedKeyUsage, false, sequence(oids.serverAuth)),
  ]),
};

/** A distinguished name, DER. */
export function distinguishedName(subject: CertificateTemplate["subject"]): Buffer {
  if (subject === undefined) return sequence();
  return sequence(
    set(sequence(oids.organization, utf8(subject.organization))),
    set(sequence(oids.commonName, utf8(subject.commonName))),
  );
}

/** RFC 7093 method 1: the leftmost 160 bits of SHA-256 over the key's bits. */
export function keyIdentifier(publicKey: Uint8Array): Buffer {
  return createHash("sha256").update(publicKey).digest().subarray(0, 20);
}

function ipBytes(address: string): Buffer {
  if (isIPv4(address)) return Buffer.from(address.split(".").map(Number));
  const [head = "", tail] = address.split("::");
  const groups = (text: string): number[] =>
    text === "" ? [] : text.split(":").map((group) => Number.parseInt(group, 16));
  const left = groups(head);
  const right = tail === undefined ? [] : groups(tail);
  const all =
    tail === undefined ? left : [...left, ...Array<number>(8 - left.length - right.length).fill(0), ...right];
  return Buffer.from(all.flatMap((group) => [group >> 8, group & 0xff]));
}

function generalName(name: AltName): Buffer {
  switch (name.type) {
    case "uri":
      return contextPrimitive(6, Buffer.from(name.value, "ascii"));
    case "dns":
      return contextPrimitive(2, Buffer.from(name.value, "ascii"));
    case "ip":
      return contextPrimitive(7, ipBytes(name.value));
  }
}

/** A signed certificate, DER. `issuer` undefined: signed by `selfKey`, as a root is. */
export function buildCertificate(
  template: CertificateTemplate,
  issuer: CertificateIssuer | { readonly selfKey: KeyObject },
): Buffer {
  const subject = distinguishedName(template.subject);
  const isCa = template.role.type === "root" || template.role.type === "issuing";
  const ownKeyId = isCa || "selfKey" in issuer ? keyIdentifier(template.publicKey) : undefined;
  const authorityKeyId = "selfKey" in issuer ? ownKeyId : issuer.keyId;
  const extensions: Uint8Array[] = [roleExtensions[template.role.type]];
  if (ownKeyId) extensions.push(extension(oids.subjectKeyId, false, octetString(ownKeyId)));
  if (authorityKeyId)
    extensions.push(extension(oids.authorityKeyId, false, sequence(contextPrimitive(0, authorityKeyId))));
  if (template.altNames.length > 0) {
    extensions.push(
      extension(
        oids.subjectAltName,
        template.subject === undefined,
        sequence(...template.altNames.map(generalName)),
      ),
    );
  }
  const tbs = sequence(
    version3,
    integer(template.serial),
    signatureAlgorithm,
    "selfKey" in issuer ? subject : issuer.name,
    sequence(time(template.notBeforeMs), time(template.notAfterMs)),
    subject,
    template.publicKey,
    context(3, sequence(...extensions)),
  );
  const signature = sign("sha256", tbs, "selfKey" in issuer ? issuer.selfKey : issuer.key);
  return sequence(tbs, signatureAlgorithm, bitString(signature));
}

/** DER to PEM. */
export function toPem(label: "CERTIFICATE", der: Uint8Array): string {
  const base64 = Buffer.from(der).toString("base64");
  const lines = base64.match(/.{1,64}/g) ?? [];
  return `-----BEGIN ${label}-----\n${lines.join("\n")}\n-----END ${label}-----\n`;
}

/** The public half of a private key, as SubjectPublicKeyInfo DER. */
export function publicKeyDer(key: KeyObject): Buffer {
  return createPublicKey(key).export({ type: "spki", format: "der" });
}

/** A private key as PKCS #8 PEM. */
export function privateKeyPem(key: KeyObject): string {
  return key.export({ type: "pkcs8", format: "pem" }).toString();
}
