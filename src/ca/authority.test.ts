import * as x509 from "@peculiar/x509";
import { createPublicKey, X509Certificate } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { makeRequest } from "../../test/helpers/csr.js";
import { RecordingLogger } from "../../test/helpers/recording-logger.js";
import { Authority, type IssuedCertificate } from "./authority.js";
import { readCertificateRequest } from "./csr.js";
import { KeyStore } from "./key-store.js";
import type { LedgerEntry } from "./ledger.js";

const hourMs = 3_600_000;
const identity = { trustDomain: "cluster.local", namespace: "shop", serviceAccount: "cart" };
const id = "spiffe://cluster.local/ns/shop/sa/cart";
const log = new RecordingLogger();

let directory: string;
let nowMs: number;
let inUse: (entry: LedgerEntry) => boolean;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "meltemi-ca-"));
  nowMs = Date.parse("2026-03-01T10:00:00.500Z");
  inUse = () => true;
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

const open = (): Authority =>
  new Authority({
    trustDomain: "cluster.local",
    keys: new KeyStore(join(directory, "ca")),
    clock: { now: () => nowMs },
    log,
    certificateTtlMs: 24 * hourMs,
    rotation: { settleMs: 5_000, deadlineMs: 24 * hourMs },
    inUse: (entry) => inUse(entry),
  });

async function issue(authority: Authority, node = "n1", validityMs = 0): Promise<IssuedCertificate> {
  const { pem } = await makeRequest({ uris: [id], subject: "CN=evil", askCa: true });
  return authority.issueWorkload(node, identity, readCertificateRequest(pem), validityMs);
}

const leafOf = (issued: IssuedCertificate): X509Certificate => new X509Certificate(issued.chain[0]!);

/** Whether the chain leads to one of the given roots, by signatures and names. */
function leadsTo(issued: IssuedCertificate, roots: readonly string[]): boolean {
  const chain = issued.chain.map((pem) => new X509Certificate(pem));
  return chain.every((one, index) => {
    const above = chain[index + 1];
    return above
      ? one.checkIssued(above) && one.verify(above.publicKey)
      : roots.some(
          (pem) =>
            one.verify(new X509Certificate(pem).publicKey) && one.checkIssued(new X509Certificate(pem)),
        );
  });
}

test("a leaf has exactly the identity as its one name, critical, and nothing that the request asked for", async () => {
  const authority = open();
  const { pem } = await makeRequest({ uris: [id], subject: "CN=evil", askCa: true });
  const request = readCertificateRequest(pem);
  const issued = authority.issueWorkload("n1", identity, request, 0);
  const leaf = new x509.X509Certificate(issued.chain[0]!);

  const names = leaf.getExtension(x509.SubjectAlternativeNameExtension);
  expect(names?.critical).toBe(true);
  expect(names?.names.toJSON()).toEqual([{ type: "url", value: id }]);
  expect(leaf.subject).toBe("");
  expect(leaf.getExtension(x509.BasicConstraintsExtension)).toMatchObject({ ca: false, critical: true });
  expect(leaf.getExtension(x509.KeyUsagesExtension)).toMatchObject({
    usages: x509.KeyUsageFlags.digitalSignature,
    critical: true,
  });
  expect(leaf.getExtension(x509.ExtendedKeyUsageExtension)?.usages).toEqual([
    "1.3.6.1.5.5.7.3.1",
    "1.3.6.1.5.5.7.3.2",
  ]);
  expect(leaf.extensions).toHaveLength(5);
  expect(Buffer.from(leaf.publicKey.rawData)).toEqual(
    createPublicKey({ key: request.publicKey, format: "der", type: "spki" }).export({
      type: "spki",
      format: "der",
    }),
  );
  expect(leaf.serialNumber).toMatch(/^[0-9a-f]{32}$/);
  expect(leaf.notBefore.toISOString()).toBe("2026-03-01T09:58:00.000Z");
  expect(leaf.notAfter.toISOString()).toBe("2026-03-02T10:00:00.000Z");
  expect(issued.notAfterMs).toBe(leaf.notAfter.getTime());
  expect(leadsTo(issued, authority.trustBundle().roots)).toBe(true);
  authority.close();
});

test.each([
  [hourMs, "2026-03-01T11:00:00.000Z"],
  [0, "2026-03-02T10:00:00.000Z"],
  [-5, "2026-03-02T10:00:00.000Z"],
  [900 * hourMs, "2026-03-02T10:00:00.000Z"],
])("a validity of %d ms ends at %s: 24 h are the default and the most", async (validityMs, end) => {
  const authority = open();
  expect(new Date((await issue(authority, "n1", validityMs)).notAfterMs).toISOString()).toBe(end);
  authority.close();
});

test("serial numbers do not repeat", async () => {
  const authority = open();
  const { pem } = await makeRequest();
  const request = readCertificateRequest(pem);
  const serials = Array.from(
    { length: 500 },
    () => authority.issueWorkload("n1", identity, request, 0).serial,
  );
  expect(new Set(serials).size).toBe(500);
  authority.close();
});

test("keys survive a restart, in files that only their owner reads", () => {
  const first = open();
  const { roots } = first.trustBundle();
  first.close();
  const second = open();
  expect(second.trustBundle().roots).toEqual(roots);
  second.close();
  const check = (path: string): void => {
    const info = statSync(path);
    expect((info.mode & 0o777).toString(8), path).toBe(info.isDirectory() ? "700" : "600");
    if (info.isDirectory()) for (const name of readdirSync(path)) check(join(path, name));
  };
  check(join(directory, "ca"));
});

test("a root rotation passes overlap and draining, each only when every certificate in use was renewed", async () => {
  const authority = open();
  const [oldRoot] = authority.trustBundle().roots;
  await issue(authority, "n1");
  await issue(authority, "n2");
  const versions: number[] = [];
  authority.onChange(() => versions.push(authority.trustBundle().version));

  nowMs += 60_000;
  authority.startRotation("root");
  expect(authority.state.phase).toBe("overlap");
  expect(authority.trustBundle().roots).toHaveLength(2);
  expect(
    authority
      .waiting()
      .map((entry) => entry.node)
      .sort(),
  ).toEqual(["n1", "n2"]);

  const fromOverlap = await issue(authority, "n1");
  expect(leadsTo(fromOverlap, [oldRoot!]), "the old key still issues").toBe(true);
  expect(fromOverlap.roots.match(/BEGIN/g)).toHaveLength(2);
  nowMs += 60_000;
  authority.tick();
  expect(authority.state.phase, "n2 has not renewed").toBe("overlap");

  await issue(authority, "n2");
  authority.tick();
  expect(authority.state.phase, "answers may be under way").toBe("overlap");
  nowMs += 4_999;
  authority.tick();
  expect(authority.state.phase).toBe("overlap");
  nowMs += 1;
  authority.tick();
  expect(authority.state.phase).toBe("draining");
  expect(authority.trustBundle().roots).toHaveLength(2);

  const fromNew = await issue(authority, "n1");
  const newRoot = authority.trustBundle().roots[0]!;
  expect(newRoot).not.toBe(oldRoot);
  expect(leadsTo(fromNew, [oldRoot!])).toBe(false);
  expect(leadsTo(fromNew, [newRoot])).toBe(true);

  inUse = (entry) => entry.node !== "n2"; // its pod is gone
  authority.tick();
  nowMs += 5_000;
  authority.tick();
  expect(authority.state.phase).toBe("stable");
  expect(authority.trustBundle().roots).toEqual([newRoot]);
  expect(versions).toEqual([2, 3, 4]);
  expect(readdirSync(join(directory, "ca/generations")), "the old keys are gone from the disk").toEqual([
    "2",
  ]);
  authority.close();
});

test("a node that never renews holds a phase up until its certificate has expired", async () => {
  const authority = open();
  await issue(authority, "dead");
  authority.startRotation("root");
  nowMs += 23 * hourMs;
  authority.tick();
  expect(authority.state.phase).toBe("overlap");
  nowMs += 1 * hourMs + 1;
  authority.tick();
  expect(authority.state.phase).toBe("draining");
  authority.close();
});

test("a crash in any phase resumes it with the same bundle and the same list of those waited for", async () => {
  let authority = open();
  await issue(authority, "n1");
  authority.startRotation("root");
  for (const phase of ["overlap", "draining"] as const) {
    expect(authority.state.phase).toBe(phase);
    const before = { bundle: authority.trustBundle(), waiting: authority.waiting() };
    expect(before.waiting).toHaveLength(1);
    // No close: the process was killed while appending to the ledger.
    writeFileSync(join(directory, "ca/issued.jsonl"), '["n1","spiffe://clus', { flag: "a" });
    authority = open();
    expect({ bundle: authority.trustBundle(), waiting: authority.waiting() }).toEqual(before);
    await issue(authority, "n1");
    authority.tick();
    nowMs += 5_000;
    authority.tick();
  }
  expect(authority.state.phase).toBe("stable");
  authority.close();
});

test("a generation that a crash left unnamed is removed, and does not disturb", () => {
  const authority = open();
  const keys = new KeyStore(join(directory, "ca"));
  const files = Object.fromEntries(
    readdirSync(join(directory, "ca/generations/1")).map((name) => [
      name,
      readFileSync(join(directory, "ca/generations/1", name), "utf8"),
    ]),
  );
  keys.addGeneration(files as unknown as Parameters<KeyStore["addGeneration"]>[0]);
  expect(readdirSync(join(directory, "ca/generations"))).toEqual(["1", "2"]);
  authority.close();
  open().close();
  expect(readdirSync(join(directory, "ca/generations"))).toEqual(["1"]);
});

test("rotating the issuing key keeps the root and needs no overlap", async () => {
  const authority = open();
  const before = await issue(authority);
  const { roots } = authority.trustBundle();
  authority.startRotation("issuing");
  const after = await issue(authority);
  expect(authority.state.phase, "until what the old key issued was renewed").toBe("draining");
  expect(authority.trustBundle()).toMatchObject({ roots, version: 2 });
  authority.tick();
  nowMs += 5_000;
  authority.tick();
  expect(authority.state.phase).toBe("stable");
  expect(authority.trustBundle(), "nobody has to renew once more").toMatchObject({ roots, version: 2 });
  expect(after.chain[1]).not.toBe(before.chain[1]);
  expect(leadsTo(before, roots) && leadsTo(after, roots)).toBe(true);
  authority.close();
});

test("an ageing issuing key is replaced by itself, and a leaf never outlives its issuer", async () => {
  const authority = open();
  const { not_after } = authority.describe().issuing;
  nowMs = Date.parse(not_after) - hourMs;
  expect((await issue(authority)).notAfterMs).toBe(Date.parse(not_after));
  authority.tick();
  expect(authority.describe().issuing.not_after).not.toBe(not_after);
  authority.close();
});

test("a second rotation while one is under way is refused, and advancing without one too", () => {
  const authority = open();
  expect(() => authority.advance()).toThrow(/no rotation is under way/);
  authority.startRotation("root");
  expect(() => authority.startRotation("issuing")).toThrow(/rotation is under way \(overlap\)/);
  authority.advance();
  expect(authority.state.phase).toBe("draining");
  authority.close();
});

test("a refused identity gets no certificate, also after a restart, until it is allowed", async () => {
  let authority = open();
  authority.refuse(identity);
  await expect(issue(authority)).rejects.toThrow(/is refused new certificates/);
  authority.close();
  authority = open();
  await expect(issue(authority)).rejects.toThrow(/is refused new certificates/);
  authority.allow(identity);
  expect(leafOf(await issue(authority)).subjectAltName).toBe(`URI:${id}`);
  authority.close();
});

test("a server certificate carries its names and no identity", () => {
  const authority = open();
  const server = new X509Certificate(
    authority.issueServer([
      { type: "dns", value: "localhost" },
      { type: "ip", value: "10.1.2.3" },
      { type: "ip", value: "fd00::1:2" },
    ]).chain[0]!,
  );
  expect(server.subjectAltName).toBe("DNS:localhost, IP Address:10.1.2.3, IP Address:FD00:0:0:0:0:0:1:2");
  expect(server.checkHost("localhost")).toBe("localhost");
  authority.close();
});

test("early renewal covers certificates of before a change and none of after it", async () => {
  const authority = open();
  const before = leafOf(await issue(authority));
  nowMs += 2_000;
  authority.startRotation("root");
  nowMs += 1_000;
  const after = leafOf(await issue(authority));
  const until = authority.trustBundle().renewNotBeforeUntilMs;
  expect(Date.parse(before.validFrom)).toBeLessThanOrEqual(until);
  expect(Date.parse(after.validFrom)).toBeGreaterThan(until);
  authority.close();
});
