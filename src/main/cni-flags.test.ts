import { resolve } from "node:path";
import { Command } from "commander";
import { expect, test } from "vitest";
import { addNodeFlags, readNodeOptions } from "./node.js";

const required = [
  "node",
  "config",
  "run-dir",
  "state-dir",
  "control-plane",
  "control-plane-root",
  "token-file",
];

const cni = (...more: string[]) => {
  const command = addNodeFlags(new Command());
  command.parse([...required.flatMap((flag) => [`--${flag}`, "x"]), ...more], { from: "user" });
  return readNodeOptions(command.opts()).cni;
};

test("no plugin is served unless told", () => {
  expect(cni()).toBeUndefined();
  expect(cni("--cni-socket", "none", "--cni-bin-dir", "none")).toBeUndefined();
});

test("what is told is taken, as absolute paths", () => {
  expect(cni("--cni-socket", "s")).toEqual({
    socket: resolve("s"),
    binDir: undefined,
    confDir: undefined,
    whenUnknown: "retry",
    kubernetes: undefined,
  });
  const all = [
    "--cni-bin-dir",
    "/b",
    "--cni-conf-dir",
    "/c",
    "--cni-when-unknown",
    "allow",
    "--cni-kubernetes",
    "/k",
  ];
  expect(cni("--cni-socket", "/s", ...all)).toEqual({
    socket: "/s",
    binDir: "/b",
    confDir: "/c",
    whenUnknown: "allow",
    kubernetes: "/k",
  });
});

test("a plugin that nobody answers is not installed", () => {
  expect(() => cni("--cni-conf-dir", "/c")).toThrow("--cni-socket is none");
  expect(() => cni("--cni-socket", "/s", "--cni-when-unknown", "hope")).toThrow(
    '--cni-when-unknown is "hope", expected retry, namespace, allow',
  );
});
