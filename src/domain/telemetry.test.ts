import { describe, expect, it } from "vitest";
import { statusesOf } from "./telemetry.js";

describe("a filter's expression", () => {
  it.each([
    ["response.code >= 400", [{ from: 400, to: 999 }]],
    ["response.code > 399 && response.code < 500", [{ from: 400, to: 499 }]],
    [
      "response.code == 503||response.code==404 || response.code == 504",
      [
        { from: 404, to: 404 },
        { from: 503, to: 504 },
      ],
    ],
    [
      "response.code != 200",
      [
        { from: 0, to: 199 },
        { from: 201, to: 999 },
      ],
    ],
    ["response.code < 300 && response.code > 400", []],
  ])("%s", (expression, ranges) => expect(statusesOf(expression)).toEqual(ranges));

  it.each([
    "",
    "response.code >= 400 && ",
    "response.code >= 4000",
    "connection.mtls",
    "(response.code >= 400)",
    "has(response.code) || response.code > 1",
  ])("is not understood: %s", (expression) => expect(statusesOf(expression)).toBeUndefined());
});
