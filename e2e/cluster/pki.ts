/** The cluster's own certificate authority, and who it certifies: by CN and O, as Kubernetes reads users and groups. */
import { generateKeyPairSync, type KeyObject } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  buildCertificate,
  distinguishedName,
  keyIdentifier,
  privateKeyPem,
  publicKeyDer,
  toPem,
  type AltName,
  type CertificateRole,
} from "../../src/ca/certificate.js";
import { clockSkewMs, randomSerial } from "../../src/ca/key-generation.js";

const lifetimeMs = 365 * 86_400_000;
const newKey = (): KeyObject => generateKeyPairSync("ec", { namedCurve: "prime256v1" }).privateKey;

/** The user's name, and its group. */
export interface Subject {
  readonly commonName: string;
  readonly organization: string;
}

/** Paths of a certificate and its key, PEM. */
export interface Credential {
  readonly certificate: string;
  readonly key: string;
}

export class Pki {
  readonly #directory: string;
  readonly #subject: Subject = { organization: "meltemi", commonName: "meltemi-cluster" };
  readonly #key: KeyObject;
  readonly #nowMs: number;
  readonly ca: Credential;

  /** Makes a new authority in the directory. */
  constructor(directory: string, nowMs: number) {
    this.#directory = directory;
    this.#nowMs = nowMs;
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    this.#key = newKey();
    this.ca = this.#write("ca", this.#key, this.#sign({ type: "root" }, this.#subject, [], this.#key));
  }

  /** A certificate for connecting as this user, written as NAME.crt and NAME.key. */
  client(name: string, subject: Subject): Credential {
    return this.#issue(name, { type: "workload" }, subject, []);
  }

  /** A certificate for listening under these names and addresses. */
  server(name: string, subject: Subject, altNames: readonly AltName[]): Credential {
    return this.#issue(name, { type: "server" }, subject, altNames);
  }

  /** A key that signs service accounts' tokens. */
  signingKey(name: string): string {
    const path = join(this.#directory, `${name}.key`);
    // The API server reads its public half from it, which it can do of this form only.
    writeFileSync(path, newKey().export({ type: "sec1", format: "pem" }), { mode: 0o600 });
    return path;
  }

  #issue(name: string, role: CertificateRole, subject: Subject, altNames: readonly AltName[]): Credential {
    const key = newKey();
    return this.#write(name, key, this.#sign(role, subject, altNames, key));
  }

  #sign(role: CertificateRole, subject: Subject, altNames: readonly AltName[], key: KeyObject): Buffer {
    const caPublic = publicKeyDer(this.#key);
    return buildCertificate(
      {
        role,
        subject,
        altNames,
        publicKey: publicKeyDer(key),
        serial: randomSerial(),
        notBeforeMs: this.#nowMs - clockSkewMs,
        notAfterMs: this.#nowMs + lifetimeMs,
      },
      key === this.#key
        ? { selfKey: key }
        : { name: distinguishedName(this.#subject), keyId: keyIdentifier(caPublic), key: this.#key },
    );
  }

  #write(name: string, key: KeyObject, certificate: Buffer): Credential {
    const paths = {
      certificate: join(this.#directory, `${name}.crt`),
      key: join(this.#directory, `${name}.key`),
    };
    writeFileSync(paths.certificate, toPem("CERTIFICATE", certificate));
    writeFileSync(paths.key, privateKeyPem(key), { mode: 0o600 });
    return paths;
  }
}

/** A kubeconfig that holds everything itself, so that it can be copied into a node or a pod. */
export function kubeconfig(server: string, ca: Credential, user: Credential): string {
  const inline = (path: string): string => readFileSync(path).toString("base64");
  return `${JSON.stringify(
    {
      apiVersion: "v1",
      kind: "Config",
      "current-context": "meltemi",
      clusters: [
        { name: "meltemi", cluster: { server, "certificate-authority-data": inline(ca.certificate) } },
      ],
      users: [
        {
          name: "user",
          user: { "client-certificate-data": inline(user.certificate), "client-key-data": inline(user.key) },
        },
      ],
      contexts: [{ name: "meltemi", context: { cluster: "meltemi", user: "user" } }],
    },
    null,
    2,
  )}\n`;
}
