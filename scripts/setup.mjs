// Brings a fresh clone to where the product can run: names what the system lacks, installs npm
// packages, builds the native parts and the TypeScript. Each step is skipped when its inputs are
// unchanged. Plain JavaScript because it runs before anything is installed.
import { execFileSync, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

export const root = dirname(dirname(fileURLToPath(import.meta.url)));
const cache = join(root, ".cache");

/** @typedef {{ command: string, debian?: string, how?: string, why: string }} Need */

/** What the system must have to run: the command, Debian's package, and why. @type {Need[]} */
const toRun = [
  { command: "ip", debian: "iproute2", why: "pods are network namespaces" },
  { command: "nft", debian: "nftables", why: "captures the pods' traffic" },
  { command: "unshare", debian: "util-linux", why: "runs the demo and the tests in namespaces of their own" },
];

/** What it must have besides when the native parts have to be built. @type {Need[]} */
const toBuild = [
  { command: "cargo", how: "install Rust 1.90 or newer (rustup.rs)", why: "builds the data plane" },
  { command: "cc", debian: "gcc libc6-dev", why: "links the data plane" },
  { command: "cmake", debian: "cmake", why: "builds the cryptographic library" },
];

/** What its tests use where they can: without it a suite says that it did not run. @type {Need[]} */
const toTest = [
  {
    command: "iptables",
    debian: "iptables",
    why: "is one of the ways to redirect, and used by CNI's portmap",
  },
  { command: "bpftool", debian: "bpftool", why: "reads the kernel's programs and links" },
  { command: "curl", debian: "curl", why: "calls the services on the pages of docs/tasks" },
  { command: "python3", debian: "python3-minimal", why: "sends what no library of ours would" },
  {
    command: "clang-14",
    debian: "clang-14 llvm-14 libbpf-dev linux-libc-dev",
    why: "compiles the BPF programs for the comparison with the committed objects",
  },
  { command: "containerd", debian: "containerd", why: "starts and stops pods through the CNI plugin" },
  { command: "h2load", debian: "nghttp2-client", why: "puts load on waypoints (HTTP/1.1, HTTP/2, gRPC)" },
  { command: "runc", debian: "runc", why: "runs containerd's pods" },
  { command: "/usr/lib/cni/bridge", debian: "containernetworking-plugins", why: "is chained before ours" },
];

/** What a cluster of its own needs (e2e/README.md). @type {Need[]} */
const toCluster = [
  { command: "etcd", debian: "etcd-server", why: "stores the cluster's objects" },
  { command: "containerd", debian: "containerd", why: "runs the nodes' pods" },
  { command: "runc", debian: "runc", why: "runs containerd's pods" },
  { command: "/usr/lib/cni/bridge", debian: "containernetworking-plugins", why: "connects the nodes' pods" },
  { command: "nft", debian: "nftables", why: "is how kube-proxy forwards" },
  { command: "iptables", debian: "iptables", why: "is how the pods' ports are mapped" },
  { command: "conntrack", debian: "conntrack", why: "lets kube-proxy forget connections" },
  { command: "pivot_root", debian: "util-linux", why: "gives a node a root of its own" },
];

/** @param {string} text */
const say = (text) => process.stderr.write(text);

/** @param {string} command */
function which(command) {
  if (command.startsWith("/")) return existsSync(command);
  const dirs = [...(process.env.PATH ?? "").split(":"), "/usr/sbin", "/sbin"];
  return dirs.some((dir) => existsSync(join(dir, command)));
}

/**
 * Runs a command with a line of progress, and shows its output only if it fails.
 * @param {string} label
 * @param {string} command
 * @param {string[]} args
 * @param {{ progress?: RegExp, env?: Record<string, string> }} [options]
 */
async function step(label, command, args, options = {}) {
  const started = Date.now();
  const tty = process.stderr.isTTY;
  say(`  ${label} …${tty ? "" : "\n"}`);
  const child = spawn(command, args, {
    cwd: root,
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, ...options.env },
  });
  let output = "";
  let last = "";
  /** @param {Buffer} chunk */
  const take = (chunk) => {
    const text = chunk.toString();
    output += text;
    const match = options.progress && [...text.matchAll(new RegExp(options.progress, "g"))].pop();
    if (match) last = match[1] ?? match[0];
  };
  child.stdout.on("data", take);
  child.stderr.on("data", take);
  const timer = setInterval(() => {
    const seconds = Math.round((Date.now() - started) / 1000);
    if (tty) say(`\r\x1b[K  ${label} … ${seconds} s ${last}`);
    else if (seconds % 20 === 0) say(`    ${label}: ${seconds} s ${last}\n`);
  }, 1000);
  const code = await new Promise((resolve) => {
    child.on("error", () => resolve(127));
    child.on("close", resolve);
  });
  clearInterval(timer);
  say(
    `${tty ? "\r\x1b[K" : ""}  ${code === 0 ? "done" : "FAILED"}  ${label} (${((Date.now() - started) / 1000).toFixed(1)} s)\n`,
  );
  if (code !== 0) {
    say(output);
    throw new Error(`${label}: ${command} ${args.join(" ")} ended with ${code}`);
  }
}

/**
 * A hash of the names and contents of all that a step reads.
 * @param {string[]} paths
 */
function stamp(paths) {
  const hash = createHash("sha256");
  /** @param {string} path */
  const visit = (path) => {
    if (!existsSync(path)) return;
    const info = statSync(path);
    if (info.isDirectory()) for (const name of readdirSync(path).sort()) visit(join(path, name));
    else hash.update(`${path}\0`).update(readFileSync(path));
  };
  for (const path of paths) visit(join(root, path));
  return hash.digest("hex");
}

/**
 * @param {string} name
 * @param {string[]} inputs
 * @param {string[]} outputs
 * @param {() => Promise<void>} run
 */
async function cached(name, inputs, outputs, run) {
  const file = join(cache, `${name}.stamp`);
  const now = stamp(inputs);
  if (
    outputs.every((path) => existsSync(join(root, path))) &&
    existsSync(file) &&
    readFileSync(file, "utf8") === now
  )
    return;
  await run();
  mkdirSync(cache, { recursive: true });
  writeFileSync(file, now);
}

function checkNode() {
  const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
  if (major < 20 || (major === 20 && minor < 19)) {
    throw new Error(`Node ${process.versions.node} is too old: 20.19 or newer is needed.`);
  }
}

/**
 * Installs what can be, and returns what is still missing.
 * @param {Need[]} needs
 */
function provide(needs) {
  const missing = needs.filter((need) => !which(need.command));
  const packages = missing.flatMap((need) => need.debian?.split(" ") ?? []);
  if (packages.length > 0 && process.getuid?.() === 0 && existsSync("/usr/bin/apt-get")) {
    say(`  installing Debian packages: ${packages.join(" ")} …\n`);
    const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
    execFileSync("apt-get", ["update", "-qq"], { stdio: ["ignore", "ignore", "inherit"], env });
    execFileSync("apt-get", ["install", "-y", "-qq", "--no-install-recommends", ...packages], {
      stdio: ["ignore", "ignore", "inherit"],
      env,
    });
  }
  return needs.filter((need) => !which(need.command));
}

/**
 * Throws naming what is missing, after installing what can be.
 * @param {Need[]} needs
 */
function checkSystem(needs) {
  const missing = provide(needs);
  if (missing.length > 0) {
    const lines = missing.map(
      (need) =>
        `  ${need.command}: ${need.why}; ${need.debian ? `apt-get install ${need.debian}` : need.how}`,
    );
    throw new Error(`This machine lacks:\n${lines.join("\n")}`);
  }
}

/** Throws naming what a cluster needs and is not here. Debian starts what it installs: that has nothing to do with ours. */
export function provideForCluster() {
  checkSystem(toCluster);
}

/** Why the cluster suite cannot run, or undefined. Go is not installed here: it is not Debian's. */
export function clusterLacks() {
  if (process.getuid?.() !== 0) return "it needs root";
  if (!["go", "/usr/local/go/bin/go", "/usr/lib/go/bin/go"].some(which))
    return "there is no Go (1.26) to build it with";
  const missing = toCluster.filter((need) => !which(need.command)).map((need) => need.command);
  return missing.length > 0 ? `there is no ${missing.join(", ")}` : undefined;
}

function provideForTests() {
  try {
    provide([...toTest, ...toCluster]);
  } catch (error) {
    say(
      `  not installed, its suite will not run: ${error instanceof Error ? error.message : String(error)}\n`,
    );
  }
}

/**
 * @param {"release" | "dist"} profile
 * @param {boolean} tests
 */
async function setupNative(profile, tests) {
  // Not native/dist, which is this step's own output.
  const native = ["Cargo.toml", "Cargo.lock", "native/crates", "native/bpf", "proto"];
  // Tests ask for features that the programs do without (a paused clock), and cargo compiles what is above a feature
  // once for each set: where tests are to follow, all is built once, with theirs.
  const everything = tests ? ["--all-targets"] : [];
  await cached(
    tests ? `cargo-${profile}-tests` : `cargo-${profile}`,
    native,
    [`target/${profile}/meltemi-proxy`, `target/${profile}/meltemi-testkit`, "native/dist/node-addon.node"],
    async () => {
      checkSystem(toBuild);
      await step(
        `native build (data plane, addon, test kit${tests ? ", tests" : ""})`,
        "cargo",
        ["build", "--locked", "--profile", profile, "--workspace", ...everything],
        {
          progress: /Compiling ([\w-]+)/,
        },
      );
      mkdirSync(join(root, "native/dist"), { recursive: true });
      // Renamed into place: a running process keeps the file it has loaded.
      const target = join(root, "native/dist/node-addon.node");
      copyFileSync(join(root, `target/${profile}/libmeltemi_node_addon.so`), `${target}.new`);
      renameSync(`${target}.new`, target);
    },
  );
  // Static, because it runs on the node and not in our image. The flag is for this one program: dependencies are shared.
  await cached(
    `cni-${profile}`,
    ["Cargo.toml", "Cargo.lock", "native/crates/cni"],
    ["native/dist/meltemi-cni"],
    async () => {
      checkSystem(toBuild);
      const plugin = ["--locked", "--profile", profile, "-p", "meltemi-cni", "--bin", "meltemi-cni"];
      const flags = ["-C", "target-feature=+crt-static", "-C", "strip=symbols"];
      await step("CNI plugin", "cargo", ["rustc", ...plugin, "--", ...flags]);
      const target = join(root, "native/dist/meltemi-cni");
      copyFileSync(join(root, `target/${profile}/meltemi-cni`), `${target}.new`);
      renameSync(`${target}.new`, target);
    },
  );
}

/**
 * @param {{ profile?: "release" | "dist", tests?: boolean, native?: boolean }} [options] `dist` is what is shipped and
 *   measured; `tests` builds the Rust tests in the same step; `native: false` leaves out all that is not TypeScript
 */
export async function setup(options = {}) {
  checkNode();
  checkSystem(toRun);
  if (options.tests === true) provideForTests();
  const profile = options.profile ?? "release";
  await cached(
    "npm",
    ["package.json", "package-lock.json", ".npmrc"],
    ["node_modules/.package-lock.json"],
    () => step("npm packages", "npm", ["ci", "--no-audit", "--no-fund"]),
  );
  if (options.native !== false) await setupNative(profile, options.tests === true);
  await cached(
    "tsc",
    [
      "src",
      "demo",
      "bench",
      "interop",
      "e2e/cluster",
      "test/helpers",
      "tsconfig.json",
      "tsconfig.build.json",
    ],
    ["dist/src/main/cli.js"],
    () => step("TypeScript build", "node", ["node_modules/typescript/bin/tsc", "-p", "tsconfig.build.json"]),
  );
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const profile = process.argv.includes("--dist") ? "dist" : "release";
  setup({ profile }).catch((error) => {
    say(`${error.message}\n`);
    process.exit(1);
  });
}
