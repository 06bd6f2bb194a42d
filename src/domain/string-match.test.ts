import { expect, test } from "vitest";
import { parseStringMatch, stringMatches } from "./string-match.js";

test.each([
  ["abc", { type: "exact", value: "abc" }],
  ["abc*", { type: "prefix", value: "abc" }],
  ["*abc", { type: "suffix", value: "abc" }],
  ["*", { type: "presence" }],
])("%s", (text, match) => expect(parseStringMatch(text)).toEqual(match));

test.each(["", "**", "*a*", "a*b", "***", "a**"])("%j can be read in two ways, or not at all", (text) =>
  expect(parseStringMatch(text)).toBeUndefined(),
);

test.each([
  ["abc", "abc", true],
  ["abc", "abcd", false],
  ["abc*", "abcd", true],
  ["abc*", "abc", true],
  ["*abc", "xabc", true],
  ["*abc", "abcx", false],
  ["*", "anything", true],
  ["*", "", false],
])("%s and %j: %s", (pattern, value, matched) =>
  expect(stringMatches(parseStringMatch(pattern)!, value)).toBe(matched),
);
