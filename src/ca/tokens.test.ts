import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { NodeTokens } from "./tokens.js";

let directory: string;
beforeEach(() => {
  directory = join(mkdtempSync(join(tmpdir(), "meltemi-tokens-")), "tokens");
});
afterEach(() => rmSync(join(directory, ".."), { recursive: true, force: true }));

const read = (tokens: NodeTokens, node: string): string => readFileSync(tokens.ensure(node), "utf8").trim();
const login = (tokens: NodeTokens, token: string): Promise<string> =>
  tokens.authenticate({ authorization: `Bearer ${token}`, peer: "test" });

test("each node has its own token, in a file that only its owner reads", async () => {
  const tokens = new NodeTokens(directory);
  const [one, two] = [read(tokens, "n1"), read(tokens, "n2")];
  expect(one).not.toBe(two);
  expect(one).toMatch(/^[\w-]{43}$/);
  expect(statSync(join(directory, "n1")).mode & 0o777).toBe(0o600);
  expect(statSync(directory).mode & 0o777).toBe(0o700);
  expect(await login(tokens, one)).toBe("n1");
  expect(await login(tokens, two)).toBe("n2");
});

test("tokens survive a restart, and two processes that make one at once agree", async () => {
  const [a, b] = [new NodeTokens(directory), new NodeTokens(directory)];
  const token = read(a, "n1");
  expect(read(b, "n1")).toBe(token);
  expect(await login(new NodeTokens(directory), token)).toBe("n1");
});

test.each(["../n1", "", "N1", "a/b", "-x", "n1\n"])("%j is no node's name, and makes no file", (name) => {
  expect(() => new NodeTokens(directory).ensure(name)).toThrow(/is not the name of a node/);
});

test("a revoked token, a prefix of one and a longer one are refused", async () => {
  const tokens = new NodeTokens(directory);
  const token = read(tokens, "n1");
  await expect(login(tokens, token.slice(0, -1))).rejects.toThrow(/belongs to no node/);
  await expect(login(tokens, `${token}x`)).rejects.toThrow(/belongs to no node/);
  tokens.revoke("n1");
  await expect(login(tokens, token)).rejects.toThrow(/belongs to no node/);
});

test("without a header, and with another scheme", async () => {
  const tokens = new NodeTokens(directory);
  await expect(tokens.authenticate({ authorization: undefined, peer: "x" })).rejects.toThrow(/no token/);
  await expect(tokens.authenticate({ authorization: "Basic abc", peer: "x" })).rejects.toThrow(/malformed/);
});
