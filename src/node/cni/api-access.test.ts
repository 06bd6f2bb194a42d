import { expect, test } from "vitest";
import type { Files } from "../../platform/files.js";
import { readApiAccess } from "./api-access.js";

const read = (value: unknown) =>
  readApiAccess(
    {
      read: () => Promise.resolve(Buffer.from(typeof value === "string" ? value : JSON.stringify(value))),
    } as Partial<Files> as Files,
    "/etc/access.json",
  );

const access = { server: "10.96.0.1:443", caFile: "/ca", tokenFile: "/token" };

test("reads how the plugin reaches the API", async () => {
  expect(await read(access)).toEqual(access);
  const more = { ...access, server: "[fd00::1]:6443", serverName: "kubernetes", timeoutMs: 500 };
  expect(await read(more)).toEqual(more);
});

test.each([
  ["{", "JSON"],
  [{ ...access, server: "kubernetes:443" }, "server: expected ADDRESS:PORT"],
  [{ ...access, tokenFile: "token" }, "tokenFile: expected an absolute path"],
  [{ ...access, timeoutMs: 60_000 }, "timeoutMs"],
  [{ ...access, token: "secret" }, "token"],
])("names what is wrong (%#)", async (value, words) => {
  await expect(read(value)).rejects.toThrow(words);
  await expect(read(value)).rejects.toThrow("/etc/access.json");
});
