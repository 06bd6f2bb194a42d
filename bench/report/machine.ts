import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { cpus, release, totalmem } from "node:os";
import { relative } from "node:path";
import { fileURLToPath } from "node:url";
import { execa } from "execa";
import type { Machine, Program } from "./raw.js";

/** The repository's root, from the compiled file dist/bench/report/machine.js. */
export const root = fileURLToPath(new URL("../../../", import.meta.url));

/** What is measured lies here; documents and tests may differ without changing a number. */
const product = ["src", "native", "proto", "Cargo.toml", "Cargo.lock", "package-lock.json"];

async function git(...args: readonly string[]): Promise<string> {
  const result = await execa("git", ["-c", "safe.directory=*", ...args], { cwd: root, reject: false });
  return result.failed ? "" : result.stdout;
}

export async function describeMachine(): Promise<Machine> {
  const commit = (await git("rev-parse", "HEAD")) || "unknown";
  const changes = await git("status", "--porcelain", "--", ...product);
  return {
    commit,
    uncommitted: changes
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => line.slice(3)),
    kernel: release(),
    cpu: cpus()[0]?.model ?? "unknown",
    cores: cpus().length,
    memoryGb: Math.round(totalmem() / 1e8) / 10,
    node: process.versions.node,
  };
}

/** A program by its hash; one inside the repository is named relative to it. */
export async function describeProgram(path: string, version: string): Promise<Program> {
  const sha256 = createHash("sha256")
    .update(await readFile(path))
    .digest("hex");
  const within = relative(root, path);
  return { path: within.startsWith("..") ? (path.split("/").at(-1) ?? path) : within, sha256, version };
}

/** The first line that a program says of its version. */
export async function versionOf(path: string, args: readonly string[]): Promise<string> {
  const result = await execa(path, args, { reject: false });
  const line =
    `${result.stdout}\n${result.stderr}`.split("\n").find((each) => each.trim() !== "") ?? "unknown";
  return line.trim().replace(/^.*\sversion:/, "version:");
}
