import { describe, expect, test } from "vitest";
import { makeRequest, p256, p384, rsa2048 } from "../../test/helpers/csr.js";
import { MeltemiError } from "../domain/error.js";
import { maxRequestLength, readCertificateRequest } from "./csr.js";

const id = "spiffe://cluster.local/ns/a/sa/b";

const refusalOf = (pem: string): string => {
  try {
    readCertificateRequest(pem);
  } catch (error) {
    expect(error).toBeInstanceOf(MeltemiError);
    expect((error as MeltemiError).code).toBe("bad_input");
    return (error as MeltemiError).message;
  }
  throw new Error(`the request was accepted: ${pem}`);
};

const derOf = (pem: string): Buffer => Buffer.from(pem.replace(/-----[^-]+-----/g, ""), "base64");
const pemOf = (der: Buffer): string =>
  `-----BEGIN CERTIFICATE REQUEST-----\n${der.toString("base64")}\n-----END CERTIFICATE REQUEST-----\n`;

test.each([p256, p384])("a request on $namedCurve is read with its names", async (algorithm) => {
  const { pem } = await makeRequest({ algorithm, uris: [id, "spiffe://x/ns/c/sa/d"] });
  expect(readCertificateRequest(pem).uris).toEqual([id, "spiffe://x/ns/c/sa/d"]);
});

test("a request without names, as ztunnel's may be, is read", async () => {
  expect(readCertificateRequest((await makeRequest()).pem).uris).toEqual([]);
});

describe("refused with a reason", () => {
  test("an RSA key", async () => {
    expect(refusalOf((await makeRequest({ algorithm: rsa2048 })).pem)).toMatch(/not signed with ECDSA/);
  });

  test("a signature by another key", async () => {
    const one = derOf((await makeRequest({ uris: [id] })).pem);
    const other = derOf((await makeRequest({ uris: [id] })).pem);
    // The public keys have the same place in both: swap them and keep the signature.
    const point = Buffer.from("034200", "hex");
    const at = one.indexOf(point) + point.length;
    other.copy(one, at, at, at + 65);
    expect(refusalOf(pemOf(one))).toMatch(/not signed by the key it contains/);
  });

  test("a changed name", async () => {
    const der = derOf((await makeRequest({ uris: [id] })).pem);
    der.write("sa/c", der.indexOf("sa/b"));
    expect(refusalOf(pemOf(der))).toMatch(/not signed by the key it contains/);
  });

  test("one that is too long", () => {
    expect(refusalOf("A".repeat(maxRequestLength + 1))).toMatch(/more than 16384/);
  });

  test.each([
    ["nothing", ""],
    ["no PEM", "hello"],
    ["two blocks", `${pemOf(Buffer.from("3000", "hex"))}${pemOf(Buffer.from("3000", "hex"))}`],
  ])("%s", (_name, pem) => {
    expect(refusalOf(pem)).toMatch(/not one PEM block/);
  });

  test("every truncation and every changed byte, without a crash", async () => {
    const der = derOf((await makeRequest({ uris: [id] })).pem);
    for (let length = 0; length < der.length; length += 1)
      refusalOf(pemOf(Buffer.concat([der.subarray(0, length), Buffer.of(0)])));
    for (let index = 0; index < der.length; index += 1) {
      const changed = Buffer.from(der);
      changed[index] = (changed[index] ?? 0) ^ 0x41;
      refusalOf(pemOf(changed));
    }
  });

  test("bytes after the end", async () => {
    expect(refusalOf(pemOf(Buffer.concat([derOf((await makeRequest()).pem), Buffer.of(5, 0)])))).toMatch(
      /after its end/,
    );
  });
});
