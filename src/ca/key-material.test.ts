import { createPrivateKey, generateKeyPairSync, X509Certificate } from "node:crypto";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, statSync, unlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { RecordingLogger } from "../../test/helpers/recording-logger.js";
import { MeltemiError } from "../domain/error.js";
import { Authority } from "./authority.js";
import { buildCertificate, privateKeyPem, publicKeyDer, toPem } from "./certificate.js";
import { issuerOf } from "./issuer-name.js";
import { generateRoot, randomSerial } from "./key-generation.js";
import type { KeyFiles } from "./key-material.js";
import { GivenKeys } from "./key-source.js";
import { KeyStore } from "./key-store.js";

const hourMs = 3_600_000;
const startMs = Date.parse("2026-03-01T10:00:00Z");
let directory: string;
let nowMs: number;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "meltemi-keys-"));
  nowMs = startMs;
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

const log = new RecordingLogger();
const options = {
  trustDomain: "cluster.local",
  clock: { now: () => nowMs },
  log,
  certificateTtlMs: 24 * hourMs,
  rotation: { settleMs: 0, deadlineMs: hourMs },
  inUse: () => true,
};

/** Writes files as an operator would, with owner-only modes, and opens the CA on them. */
function openGiven(files: Partial<Record<keyof KeyFiles, string | undefined>>): Authority {
  const given = join(directory, "given");
  mkdirSync(given, { recursive: true, mode: 0o700 });
  for (const [name, text] of Object.entries(files)) {
    if (text !== undefined) writeFileSync(join(given, name), text, { mode: 0o600 });
  }
  return new Authority({ ...options, keys: new GivenKeys(given, new KeyStore(join(directory, "state"))) });
}

const refusal = (open: () => unknown): MeltemiError => {
  try {
    open();
  } catch (error) {
    expect(error).toBeInstanceOf(MeltemiError);
    return error as MeltemiError;
  }
  throw new Error("the CA has started");
};

/** Without the root's key, as Istio's cacerts are. */
function cacerts(): Omit<KeyFiles, "root-key.pem"> & { readonly "cert-chain.pem": string } {
  const { "root-key.pem": _root, ...files } = generateRoot("cluster.local", startMs);
  return { ...files, "cert-chain.pem": `${files["ca-cert.pem"]}${files["root-cert.pem"]}` };
}

test("keys in Istio's layout are taken, and their root is not sent in the chain", () => {
  const files = cacerts();
  const authority = openGiven(files);
  const server = authority.issueServer([{ type: "dns", value: "localhost" }]);
  expect(server.chain).toHaveLength(2);
  expect(new X509Certificate(server.chain[1]!).fingerprint256).toBe(
    new X509Certificate(files["ca-cert.pem"]).fingerprint256,
  );
  expect(authority.trustBundle().roots.map((pem) => new X509Certificate(pem).fingerprint256)).toEqual([
    new X509Certificate(files["root-cert.pem"]).fingerprint256,
  ]);
  expect(() => authority.startRotation("root")).toThrow(/given from outside/);
  authority.close();
});

test("a deeper chain is checked link by link and sent whole", () => {
  const top = generateRoot("cluster.local", startMs);
  const key = generateKeyPairSync("ec", { namedCurve: "prime256v1" }).privateKey;
  // An issuing certificate below the generated one, which becomes an intermediate.
  const below = toPem(
    "CERTIFICATE",
    buildCertificate(
      {
        role: { type: "root" },
        subject: { organization: "cluster.local", commonName: "below" },
        altNames: [],
        publicKey: publicKeyDer(key),
        serial: randomSerial(),
        notBeforeMs: startMs - hourMs,
        notAfterMs: startMs + 100 * hourMs,
      },
      issuerOf(new X509Certificate(top["ca-cert.pem"]), createPrivateKey(top["ca-key.pem"])),
    ),
  );
  const files = {
    "root-cert.pem": top["root-cert.pem"],
    "ca-cert.pem": below,
    "ca-key.pem": privateKeyPem(key),
  };
  expect(refusal(() => openGiven(files)).message).toMatch(/ca-cert.pem does not lead to a root/);
  const authority = openGiven({ ...files, "cert-chain.pem": `${below}${top["ca-cert.pem"]}` });
  expect(authority.issueServer([{ type: "dns", value: "x" }]).chain).toHaveLength(3);
  authority.close();
});

test("the version grows when the given files differ from the last start's, and only then", () => {
  const versionOf = (files: Partial<KeyFiles>): number => {
    const authority = openGiven(files);
    const { version } = authority.trustBundle();
    authority.close();
    return version;
  };
  const first = cacerts();
  expect([versionOf(first), versionOf(first)]).toEqual([1, 1]);
  const second = cacerts();
  expect(
    versionOf({ ...first, "root-cert.pem": `${first["root-cert.pem"]}${second["root-cert.pem"]}` }),
  ).toBe(2);
  expect(
    versionOf({ ...second, "root-cert.pem": `${second["root-cert.pem"]}${first["root-cert.pem"]}` }),
  ).toBe(3);
});

test.each<[string, () => Partial<Record<keyof KeyFiles, string | undefined>>, RegExp]>([
  ["a missing key", () => ({ ...cacerts(), "ca-key.pem": undefined }), /ca-key.pem is missing/],
  [
    "another pair's key",
    () => ({ ...cacerts(), "ca-key.pem": cacerts()["ca-key.pem"] }),
    /ca-key.pem is not the key of .*ca-cert.pem/,
  ],
  [
    "another root",
    () => ({ ...cacerts(), "root-cert.pem": cacerts()["root-cert.pem"] }),
    /cert-chain.pem: .* is not signed by|does not lead to a root/,
  ],
  [
    "no certificate in a file",
    () => ({ ...cacerts(), "root-cert.pem": "hello" }),
    /root-cert.pem contains no certificate/,
  ],
  [
    "a damaged certificate",
    () => ({ ...cacerts(), "ca-cert.pem": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" }),
    /ca-cert.pem: certificate 1 cannot be read/,
  ],
  [
    "a damaged key",
    () => ({ ...cacerts(), "ca-key.pem": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n" }),
    /ca-key.pem is not a private key/,
  ],
  [
    "an RSA key",
    () => ({
      ...cacerts(),
      "ca-key.pem": privateKeyPem(generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey),
    }),
    /ca-key.pem is a key of type rsa/,
  ],
])("refuses to start with %s, naming the file", (_name, files, message) => {
  const error = refusal(() => openGiven(files()));
  expect(error.message).toMatch(message);
  expect(error.message).not.toContain("PRIVATE KEY");
});

test("refuses to start with expired certificates, and with a clock before them", () => {
  const files = cacerts();
  nowMs = startMs + 366 * 24 * hourMs;
  expect(refusal(() => openGiven(files)).message).toMatch(/ca-cert.pem expired at 2027-03-01T10:00:00.000Z/);
  nowMs = startMs - hourMs;
  expect(refusal(() => openGiven(files)).message).toMatch(/root-cert.pem is not valid before/);
});

test("modes that are too wide are narrowed and told", () => {
  openGiven(cacerts()).close();
  const key = join(directory, "given/ca-key.pem");
  chmodSync(key, 0o644);
  chmodSync(join(directory, "given"), 0o755);
  log.records.length = 0;
  openGiven({}).close();
  expect(statSync(key).mode & 0o777).toBe(0o600);
  expect(statSync(join(directory, "given")).mode & 0o777).toBe(0o700);
  expect(
    log.records
      .filter(({ level }) => level === "warn")
      .map(({ fields }) => fields["was"])
      .sort(),
  ).toEqual(["0644", "0755"]);
});

test("a damaged or missing state is an error, never a new root", () => {
  const state = join(directory, "own");
  const open = (): Authority => new Authority({ ...options, keys: new KeyStore(state) });
  open().close();
  const rotation = join(state, "rotation.json");
  writeFileSync(rotation, '{"phase":"stable"', { mode: 0o600 });
  expect(refusal(open).message).toMatch(/rotation.json is damaged/);
  unlinkSync(rotation);
  expect(refusal(open).message).toMatch(/rotation.json is missing/);
});
