import { expect, test } from "vitest";
import { maxAgeMs, readDiscovery, readKeySet } from "./key-set-document.js";

const ec = { kty: "EC", crv: "P-256", x: "eA", y: "eQ", kid: "a" };

test("of a key set only what verifies signatures goes on", () => {
  const set = {
    keys: [
      { ...ec, d: "secret", x5c: ["certificate"] },
      { kty: "RSA", n: "bg", e: "AQAB", use: "sig", p: "secret" },
      { ...ec, kid: "b", use: "enc" },
      { kty: "oct", k: "secret" },
      { kid: "no type" },
    ],
    further: 1,
  };
  expect(JSON.parse(readKeySet(JSON.stringify(set)))).toEqual({
    keys: [
      { kty: "EC", kid: "a", crv: "P-256", x: "eA", y: "eQ" },
      { kty: "RSA", use: "sig", n: "bg", e: "AQAB" },
    ],
  });
  expect(readKeySet(`{"keys": [{"y": "eQ", "kid": "a", "x": "eA", "crv": "P-256", "kty": "EC"}]}`)).toBe(
    readKeySet(JSON.stringify({ keys: [ec] })),
  );
});

test.each(["", "<html>", "null", "[]", "{}", '{"keys": 7}', '{"keys": []}', '{"keys": [{"kty": "oct"}]}'])(
  "%j is no key set",
  (text) => {
    expect(() => readKeySet(text)).toThrow(/no JSON Web Key Set|no key that verifies/);
  },
);

test("an issuer's metadata is believed of itself alone", () => {
  const metadata = { issuer: "https://issuer.example", jwks_uri: "https://keys.example/set" };
  const read = (value: object): string => readDiscovery(JSON.stringify(value), "https://issuer.example");
  expect(read(metadata)).toBe("https://keys.example/set");
  expect(() => read({ ...metadata, issuer: "https://other.example" })).toThrow("another issuer");
  expect(() => read({ ...metadata, jwks_uri: "file:///etc/passwd" })).toThrow("jwks_uri");
  expect(() => read({ issuer: metadata.issuer })).toThrow("jwks_uri");
  const plain = "http://keys.example/set";
  expect(() => read({ ...metadata, jwks_uri: plain })).toThrow("its jwks_uri is http");
  expect(readDiscovery(JSON.stringify({ jwks_uri: plain }), "http://issuer.example")).toBe(plain);
});

test.each([
  ["", undefined],
  ["max-age=300", 300_000],
  ["public, Max-Age = 60 , must-revalidate", 60_000],
  ["no-cache, max-age=300", undefined],
  ["no-store", undefined],
  ["max-age=0", undefined],
  ["s-maxage=300", undefined],
])("cache-control %j keeps for %j", (text, want) => {
  expect(maxAgeMs(text)).toBe(want);
});
