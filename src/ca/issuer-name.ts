/** Reading from an issuer's certificate what its leaves must repeat byte for byte: name and key identifier. */
import * as asn1 from "asn1js";
import type { KeyObject, X509Certificate } from "node:crypto";
import { MeltemiError } from "../domain/error.js";
import { keyIdentifier, type CertificateIssuer } from "./certificate.js";

const subjectKeyId = "2.5.29.14";

function parts(block: asn1.AsnType | undefined): asn1.AsnType[] {
  if (block instanceof asn1.Sequence || block instanceof asn1.Constructed) return block.valueBlock.value;
  throw new MeltemiError("bad_input", "the CA's certificate has not the structure of X.509");
}

/** The issuer that a certificate and its key make. A name is copied, not rebuilt: verifiers compare it byte for byte. */
export function issuerOf(certificate: X509Certificate, key: KeyObject): CertificateIssuer {
  const parsed = asn1.fromBER(certificate.raw);
  const fields = parts(parts(parsed.result)[0]);
  // version [0] is present in every version 3 certificate: serial, algorithm, issuer, validity, subject, key follow.
  const subject = fields[5];
  if (!subject)
    throw new MeltemiError("bad_input", "the CA's certificate is not an X.509 version 3 certificate");
  const extensions = fields.find((field) => field.idBlock.tagClass === 3 && field.idBlock.tagNumber === 3);
  for (const one of extensions ? parts(parts(extensions)[0]) : []) {
    const [id, ...rest] = parts(one);
    const value = rest.at(-1);
    if (
      !(id instanceof asn1.ObjectIdentifier) ||
      id.valueBlock.toString() !== subjectKeyId ||
      !(value instanceof asn1.OctetString)
    )
      continue;
    const inner = asn1.fromBER(value.valueBlock.valueHexView).result;
    if (inner instanceof asn1.OctetString) {
      return {
        name: Buffer.from(subject.valueBeforeDecodeView),
        keyId: Buffer.from(inner.valueBlock.valueHexView),
        key,
      };
    }
  }
  return {
    name: Buffer.from(subject.valueBeforeDecodeView),
    keyId: keyIdentifier(certificate.publicKey.export({ type: "spki", format: "der" })),
    key,
  };
}
