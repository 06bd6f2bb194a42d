// The whole test command: set-up, then every suite, with its time. A failing suite does not hide the
// ones after it. usage: npm test [-- SUITE...]
import { spawn } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { clusterLacks, root, setup } from "./setup.mjs";
import { sandboxed } from "./sandbox.mjs";

const node = process.execPath;
const bin = (/** @type {string} */ name) => `node_modules/.bin/${name}`;
const vitest = [node, "node_modules/vitest/vitest.mjs", "run", "--project"];

/** A sandbox for each file: what one leaves behind cannot be in another's way. */
const netns = readdirSync(join(root, "test/netns"), { recursive: true, encoding: "utf8" })
  .filter((name) => name.endsWith(".test.ts"))
  .sort()
  .map((name) => sandboxed([...vitest, "netns", join("test/netns", name)]));

/** Commands of one suite run one after the other. @type {{ name: string, command?: string[], commands?: string[][], lacks?: () => string | undefined }[]} */
const suites = [
  { name: "typecheck", command: [bin("tsc"), "-p", "tsconfig.json", "--noEmit"] },
  { name: "lint", command: [bin("eslint"), ".", "--max-warnings", "0"] },
  { name: "format", command: [bin("prettier"), "--check", ".", "--log-level", "warn"] },
  { name: "generated", command: [node, "scripts/check-generated.mjs"] },
  { name: "bpf-objects", command: [node, "scripts/check-bpf.mjs", "--if-present"] },
  { name: "rust-format", command: ["cargo", "fmt", "--all", "--check"] },
  {
    name: "rust-lint",
    command: [
      "cargo",
      "clippy",
      "--locked",
      "--release",
      "--workspace",
      "--all-targets",
      "--",
      "-D",
      "warnings",
    ],
  },
  { name: "rust", command: ["cargo", "test", "--locked", "--release", "--workspace", "--no-fail-fast"] },
  { name: "unit", command: [...vitest, "unit"] },
  { name: "netns", commands: netns },
  { name: "containerd", command: sandboxed([...vitest, "containerd"]) },
  {
    name: "cluster",
    lacks: clusterLacks,
    commands: [
      [node, "dist/e2e/cluster/main.js", "build"],
      [...vitest, "cluster"],
      // Where the tests were killed, they have not.
      [node, "dist/e2e/cluster/main.js", "--state", "/var/lib/meltemi-cluster-test", "down"],
    ],
  },
];

/**
 * Closing lines of cargo's test programs: of each program the last, as a test may run its own program again (in a
 * sandbox, say), whose closing line comes first.
 * @param {string} output
 */
function cargoResults(output) {
  const programs = output.split(/^\s+(?:Running|Doc-tests) /m).slice(1);
  return programs.flatMap((text) => text.match(/^test result: .*$/gm)?.slice(-1) ?? []).join("\n");
}

/**
 * @param {string[]} command
 * @returns {Promise<{ ok: boolean, passed: number, failed: number }>} tests counted from the runner's own closing lines
 */
function run(command) {
  return new Promise((resolve) => {
    // One pipe for both outputs: otherwise their order is lost.
    const child = spawn("sh", ["-c", 'exec "$@" 2>&1', "suite", ...command], {
      cwd: root,
      stdio: ["ignore", "pipe", "inherit"],
      env: { ...process.env, NO_COLOR: "1" },
    });
    let output = "";
    child.stdout.on("data", (/** @type {Buffer} */ chunk) => {
      output += chunk.toString();
      process.stdout.write(chunk);
    });
    child.on("error", (error) => {
      process.stdout.write(`${error.message}\n`);
      resolve({ ok: false, passed: 0, failed: 1 });
    });
    child.on("close", (code) => {
      const cargo = cargoResults(output);
      const sum = (/** @type {RegExp} */ pattern) =>
        [...cargo.matchAll(pattern)].reduce((total, match) => total + Number(match[1]), 0);
      const vitestLine = /^\s*Tests\s.*$/gm.exec(output)?.[0] ?? "";
      const passed =
        sum(/^test result: \w+\. (\d+) passed/gm) + Number(/(\d+) passed/.exec(vitestLine)?.[1] ?? 0);
      const failed =
        sum(/^test result: \w+\. \d+ passed; (\d+) failed/gm) +
        Number(/(\d+) failed/.exec(vitestLine)?.[1] ?? 0);
      const skipped =
        sum(/^test result: .*?(\d+) ignored/gm) + Number(/(\d+) skipped/.exec(vitestLine)?.[1] ?? 0);
      if (skipped > 0) process.stdout.write(`${skipped} tests were skipped: none may be\n`);
      resolve({ ok: code === 0 && skipped === 0, passed, failed });
    });
  });
}

const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !suites.some((suite) => suite.name === name));
if (unknown.length > 0) {
  process.stderr.write(
    `no suite ${unknown.join(", ")}; there are: ${suites.map((suite) => suite.name).join(", ")}\n`,
  );
  process.exit(2);
}

const started = Date.now();
const seconds = (/** @type {number} */ since) => ((Date.now() - since) / 1000).toFixed(1).padStart(7);
try {
  await setup({ tests: true });
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exit(1);
}
const lines = [`${seconds(started)} s  ok    set-up`];
let passed = 0;
let failed = 0;
let notRun = 0;
for (const suite of suites) {
  if (wanted.length > 0 && !wanted.includes(suite.name)) continue;
  process.stdout.write(`\n== ${suite.name}\n`);
  const lacks = suite.lacks?.();
  if (lacks !== undefined) {
    process.stdout.write(`\n!!! The ${suite.name} suite DID NOT RUN: ${lacks}\n`);
    lines.push(`        -    NOT RUN  ${suite.name}: ${lacks}`);
    notRun += 1;
    continue;
  }
  const since = Date.now();
  const result = { ok: true, passed: 0, failed: 0 };
  for (const command of suite.commands ?? [suite.command ?? []]) {
    const one = await run(command);
    result.ok &&= one.ok;
    result.passed += one.passed;
    result.failed += one.failed + (!one.ok && one.failed === 0 ? 1 : 0);
  }
  // A suite without tests of its own (lint, types) counts as one.
  passed += result.passed + (result.ok && result.passed === 0 ? 1 : 0);
  failed += result.failed + (!result.ok && result.failed === 0 ? 1 : 0);
  lines.push(`${seconds(since)} s  ${result.ok ? "ok  " : "FAIL"}  ${suite.name}`);
}
process.stdout.write(
  `\n${lines.join("\n")}\n${seconds(started)} s  in all\n${passed} passed, ${failed} failed${notRun > 0 ? `, ${notRun} suite${notRun > 1 ? "s" : ""} NOT RUN` : ""}\n`,
);
process.exitCode = failed === 0 ? 0 : 1;
