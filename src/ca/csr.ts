/** Reading a certificate request (PKCS #10, RFC 2986): only its key and the name it asks for count. */
import * as asn1 from "asn1js";
import { createPublicKey, verify } from "node:crypto";
import { bitString, oid, sequence } from "./der.js";
import { MeltemiError, messageOf } from "../domain/error.js";

/** A request whose signature is valid: the sender holds the private key. */
export interface CertificateRequest {
  /** SubjectPublicKeyInfo, DER, as re-encoded by the cryptographic library. */
  readonly publicKey: Buffer;
  /** URI names asked for. All else in the request is ignored. */
  readonly uris: readonly string[];
}

/** Longest request in characters that is looked at; a P-256 request has about 500. */
export const maxRequestLength = 16_384;

const signatureHashes: ReadonlyMap<string, "sha256" | "sha384"> = new Map([
  ["1.2.840.10045.4.3.2", "sha256"],
  ["1.2.840.10045.4.3.3", "sha384"],
]);
const allowedCurves: ReadonlySet<string> = new Set(["prime256v1", "secp384r1"]);
const extensionRequest = "1.2.840.113549.1.9.14";
const subjectAltName = "2.5.29.17";

function refuse(message: string, cause?: unknown): MeltemiError {
  return new MeltemiError("bad_input", `the certificate request ${message}`, {
    hint: "send a PKCS #10 request with a P-256 or P-384 key, signed with ECDSA, in PEM",
    cause,
  });
}

/** Strict PEM: one block, nothing around it. */
function decodePem(pem: string): Buffer {
  if (pem.length > maxRequestLength)
    throw refuse(`is ${pem.length} characters long, more than ${maxRequestLength}`);
  const match =
    /^\s*-----BEGIN (?:NEW )?CERTIFICATE REQUEST-----\s+([A-Za-z0-9+/=\s]+)-----END (?:NEW )?CERTIFICATE REQUEST-----\s*$/.exec(
      pem,
    );
  if (!match?.[1]) throw refuse("is not one PEM block");
  return Buffer.from(match[1], "base64");
}

/** What is inside a SEQUENCE, a SET or the attributes' `[0]`, in definite length. */
function children(block: asn1.AsnType | undefined): asn1.AsnType[] {
  if (block instanceof asn1.Constructed && !block.lenBlock.isIndefiniteForm) {
    const { tagClass, tagNumber } = block.idBlock;
    if (tagClass === 1 && (tagNumber === 16 || tagNumber === 17)) return block.valueBlock.value;
    if (tagClass === 3 && tagNumber === 0) return block.valueBlock.value;
  }
  throw refuse("has not the structure of PKCS #10");
}

function oidOf(block: asn1.AsnType | undefined): string {
  if (!(block instanceof asn1.ObjectIdentifier)) throw refuse("has not the structure of PKCS #10");
  return block.valueBlock.toString();
}

/** URI names of a SubjectAltName extension's value. */
function urisOf(value: asn1.AsnType | undefined): string[] {
  if (!(value instanceof asn1.OctetString)) throw refuse("has an extension without a value");
  const names = asn1.fromBER(value.valueBlock.valueHexView);
  if (names.offset === -1) throw refuse("has subject alternative names that cannot be read");
  return children(names.result).flatMap((name) =>
    name.idBlock.tagClass === 3 && name.idBlock.tagNumber === 6 && name instanceof asn1.Primitive
      ? [Buffer.from(name.valueBlock.valueHexView).toString("latin1")]
      : [],
  );
}

function altNameUris(attributes: asn1.AsnType | undefined): string[] {
  if (attributes === undefined) return [];
  return children(attributes).flatMap((attribute) => {
    const [type, values] = children(attribute);
    if (oidOf(type) !== extensionRequest) return [];
    return children(values).flatMap((extensions) =>
      children(extensions).flatMap((one) => {
        const fields = children(one);
        return oidOf(fields[0]) === subjectAltName ? urisOf(fields.at(-1)) : [];
      }),
    );
  });
}

/**
 * Parses a PEM request and checks its signature with its own key.
 * Throws `bad_input` saying what is wrong with it.
 */
export function readCertificateRequest(pem: string): CertificateRequest {
  const der = decodePem(pem);
  try {
    return readDer(der);
  } catch (error) {
    // The parser throws what it likes at lengths and tags that make no sense.
    throw error instanceof MeltemiError ? error : refuse(`cannot be read: ${messageOf(error)}`, error);
  }
}

function readDer(der: Buffer): CertificateRequest {
  const parsed = asn1.fromBER(der);
  if (parsed.offset !== der.length)
    throw refuse(parsed.offset === -1 ? "is not ASN.1" : "has bytes after its end");
  const [info, algorithm, signature] = children(parsed.result);
  const [, , keyInfo, attributes] = children(info);
  if (!info || !keyInfo || !(signature instanceof asn1.BitString))
    throw refuse("has not the structure of PKCS #10");

  const hash = signatureHashes.get(oidOf(children(algorithm)[0]));
  if (hash === undefined) throw refuse("is not signed with ECDSA and SHA-256 or SHA-384");
  // The parser takes BER with lengths that do not fit; what is not signed must be the one DER form.
  const canonical = sequence(
    info.valueBeforeDecodeView,
    sequence(oid(oidOf(children(algorithm)[0]))),
    bitString(signature.valueBlock.valueHexView),
  );
  if (!canonical.equals(der)) throw refuse("is not in DER");
  let key;
  try {
    key = createPublicKey({ key: Buffer.from(keyInfo.valueBeforeDecodeView), format: "der", type: "spki" });
  } catch (error) {
    throw refuse(`has a public key that cannot be read: ${messageOf(error)}`, error);
  }
  const curve = key.asymmetricKeyDetails?.namedCurve;
  if (key.asymmetricKeyType !== "ec" || curve === undefined || !allowedCurves.has(curve)) {
    throw refuse(`has a key of type ${curve ?? key.asymmetricKeyType ?? "unknown"}`);
  }
  if (!verify(hash, info.valueBeforeDecodeView, key, signature.valueBlock.valueHexView)) {
    throw refuse("is not signed by the key it contains");
  }
  return { publicKey: key.export({ type: "spki", format: "der" }), uris: altNameUris(attributes) };
}
