/** One set of CA keys and certificates: checked when read, in the file layout of Istio's `cacerts`. */
import { createPrivateKey, X509Certificate, type KeyObject } from "node:crypto";
import { MeltemiError, messageOf } from "../domain/error.js";

/** What the files hold, as text. Names are Istio's; `root-key.pem` exists only where Meltemi made the root itself. */
export interface KeyFiles {
  readonly "root-cert.pem": string;
  readonly "ca-cert.pem": string;
  readonly "ca-key.pem": string;
  readonly "cert-chain.pem": string | undefined;
  readonly "root-key.pem": string | undefined;
}

export const keyFileNames = [
  "root-cert.pem",
  "ca-cert.pem",
  "ca-key.pem",
  "cert-chain.pem",
  "root-key.pem",
] as const;

export interface KeyMaterial {
  /** Trusted roots; more than one when a given `root-cert.pem` is itself a bundle. */
  readonly roots: readonly X509Certificate[];
  /** Present where Meltemi may make a new issuing key itself. */
  readonly rootKey: KeyObject | undefined;
  readonly issuing: X509Certificate;
  readonly issuingKey: KeyObject;
  /** What a leaf is sent with: the issuing certificate and what leads to the root, without the root. */
  readonly chain: readonly X509Certificate[];
}

const certificatePem = /-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----/g;

/** Splits PEM text into certificates. Throws `bad_input` naming the file. */
export function readCertificates(pem: string, file: string): X509Certificate[] {
  const blocks = pem.match(certificatePem) ?? [];
  if (blocks.length === 0)
    throw new MeltemiError("bad_input", `${file} contains no certificate`, { hint: "expected PEM" });
  return blocks.map((block, index) => {
    try {
      return new X509Certificate(block);
    } catch (error) {
      throw new MeltemiError(
        "bad_input",
        `${file}: certificate ${index + 1} cannot be read: ${messageOf(error)}`,
        { cause: error },
      );
    }
  });
}

function readPrivateKey(pem: string, file: string): KeyObject {
  let key: KeyObject;
  try {
    key = createPrivateKey(pem);
  } catch {
    // The cause could quote the file: it is left out on purpose.
    throw new MeltemiError("bad_input", `${file} is not a private key that can be read`, {
      hint: "expected an unencrypted PEM key of type EC P-256",
    });
  }
  if (key.asymmetricKeyType !== "ec" || key.asymmetricKeyDetails?.namedCurve !== "prime256v1") {
    throw new MeltemiError(
      "unsupported",
      `${file} is a key of type ${key.asymmetricKeyType ?? "unknown"}, and the CA signs with EC P-256`,
      {
        hint: "make an issuing key on P-256 (openssl ecparam -name prime256v1 -genkey)",
      },
    );
  }
  return key;
}

function requireValid(certificate: X509Certificate, file: string, nowMs: number): void {
  const from = Date.parse(certificate.validFrom);
  const to = Date.parse(certificate.validTo);
  if (to <= nowMs) {
    throw new MeltemiError("bad_input", `${file} expired at ${new Date(to).toISOString()}`, {
      hint: "replace it, or set the machine's clock",
    });
  }
  if (from > nowMs) {
    throw new MeltemiError("bad_input", `${file} is not valid before ${new Date(from).toISOString()}`, {
      hint: "set the machine's clock",
    });
  }
  if (!certificate.ca)
    throw new MeltemiError(
      "bad_input",
      `${file} is not the certificate of a CA (basicConstraints CA is false)`,
    );
}

const isSigned = (certificate: X509Certificate, by: X509Certificate): boolean =>
  certificate.checkIssued(by) && certificate.verify(by.publicKey);

/**
 * Checks a set of files against each other and the clock: the key fits its certificate, everything
 * is valid now, and the chain leads to a trusted root. `where` is the directory, for messages.
 */
export function checkKeyMaterial(files: KeyFiles, where: string, nowMs: number): KeyMaterial {
  const at = (name: string): string => `${where}/${name}`;
  const roots = readCertificates(files["root-cert.pem"], at("root-cert.pem"));
  const [issuing] = readCertificates(files["ca-cert.pem"], at("ca-cert.pem"));
  if (!issuing) throw new MeltemiError("bad_input", `${at("ca-cert.pem")} contains no certificate`);
  const issuingKey = readPrivateKey(files["ca-key.pem"], at("ca-key.pem"));
  const rootKey =
    files["root-key.pem"] === undefined
      ? undefined
      : readPrivateKey(files["root-key.pem"], at("root-key.pem"));

  for (const root of roots) requireValid(root, at("root-cert.pem"), nowMs);
  requireValid(issuing, at("ca-cert.pem"), nowMs);
  if (!issuing.checkPrivateKey(issuingKey)) {
    throw new MeltemiError("bad_input", `${at("ca-key.pem")} is not the key of ${at("ca-cert.pem")}`, {
      hint: "put the matching pair in place",
    });
  }
  if (rootKey && !roots.some((root) => root.checkPrivateKey(rootKey))) {
    throw new MeltemiError("bad_input", `${at("root-key.pem")} is not the key of ${at("root-cert.pem")}`, {
      hint: "put the matching pair in place",
    });
  }

  const isRoot = (one: X509Certificate): boolean =>
    roots.some((root) => root.fingerprint256 === one.fingerprint256);
  const given =
    files["cert-chain.pem"] === undefined
      ? []
      : readCertificates(files["cert-chain.pem"], at("cert-chain.pem"));
  const between = given.filter((one) => !isRoot(one) && one.fingerprint256 !== issuing.fingerprint256);
  const chain = isRoot(issuing) ? [] : [issuing, ...between];
  let last = issuing;
  for (const next of between) {
    requireValid(next, at("cert-chain.pem"), nowMs);
    if (!isSigned(last, next)) {
      throw new MeltemiError(
        "bad_input",
        `${at("cert-chain.pem")}: "${last.subject}" is not signed by "${next.subject}", which follows it`,
        {
          hint: "order it from the issuing certificate to the root",
        },
      );
    }
    last = next;
  }
  if (!isRoot(last) && !roots.some((root) => isSigned(last, root))) {
    throw new MeltemiError(
      "bad_input",
      `${at("ca-cert.pem")} does not lead to a root of ${at("root-cert.pem")}`,
      {
        hint: "add the certificates between them to cert-chain.pem",
      },
    );
  }
  return { roots, rootKey, issuing, issuingKey, chain };
}
