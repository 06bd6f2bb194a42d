import { expect, test } from "vitest";
import { didYouMean, nearest } from "./nearest.js";

const words = ["principals", "namespaces", "ports", "AuthorizationPolicy"];

test.each([
  ["princpals", "principals"],
  ["notPrincipals", "principals"],
  ["namespace", "namespaces"],
  ["prots", "ports"],
  ["PORTS", "ports"],
  ["AuthorisationPolicy", "AuthorizationPolicy"],
  ["x", undefined],
  ["", undefined],
  ["something else entirely", undefined],
  ["p".repeat(10_000), undefined],
])("%s means %s", (word, meant) => expect(nearest(word, words)).toBe(meant));

test("the hint is a question", () => {
  expect(didYouMean("port", words)).toBe('did you mean "ports"?');
  expect(didYouMean("zebra", words)).toBeUndefined();
});
