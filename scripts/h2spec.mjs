// npm run h2spec [-- H2SPEC'S ARGUMENTS]: the HTTP/2 conformance tests of github.com/summerwind/h2spec against the
// waypoint's HTTP core, as a plain reverse proxy on loopback (native/crates/http/examples/plain.rs). h2spec is built
// outside of the repository's own sources, below .cache, from the Go module proxy.
import { execFileSync, spawn } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import { root } from "./setup.mjs";

const version = "v2.2.1+incompatible";
const bin = join(root, ".cache/h2spec");
const h2spec = join(bin, "h2spec");

/** Cases that are not held, each with its reason. Anything else that fails is an error, and so is one that holds. */
const known = new Map([
  [
    "Sends invalid connection preface",
    "the port takes HTTP/1.1, too: what is no preface is answered as such a request, with 400, and closed",
  ],
]);

if (!existsSync(h2spec)) {
  mkdirSync(bin, { recursive: true });
  execFileSync("go", ["install", `github.com/summerwind/h2spec/cmd/h2spec@${version}`], {
    env: { ...process.env, GOBIN: bin, GO111MODULE: "on" },
    stdio: "inherit",
  });
}
execFileSync("cargo", ["build", "--locked", "--release", "-p", "meltemi-http", "--example", "plain"], {
  cwd: root,
  stdio: "inherit",
});

const backend = createServer((request, response) => {
  request.resume();
  request.once("end", () => response.end("x".repeat(1024)));
}).listen(0, "127.0.0.1");
await new Promise((resolve) => backend.once("listening", resolve));
const address = backend.address();
const port = typeof address === "object" && address ? address.port : 0;
const plain = spawn(join(root, "target/release/examples/plain"), [`127.0.0.1:${port}`, "http1", "1"], {
  stdio: ["ignore", "pipe", "inherit"],
});
/** @type {string} */
const proxy = await new Promise((resolve, reject) => {
  plain.stdout.once("data", (/** @type {Buffer} */ chunk) => resolve(chunk.toString().trim()));
  plain.once("exit", () => reject(new Error("the plain proxy ended before it was ready")));
});

const args = ["-h", "127.0.0.1", "-p", proxy.split(":")[1] ?? "", "--timeout", "3", ...process.argv.slice(2)];
const running = spawn(h2spec, args, { stdio: ["ignore", "pipe", "inherit"] });
let output = "";
running.stdout.on("data", (/** @type {Buffer} */ chunk) => {
  output += chunk.toString();
  process.stdout.write(chunk);
});
await new Promise((resolve) => running.once("close", resolve));
plain.kill();
backend.close();

const total = /(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed/.exec(output);
const failed = [...output.matchAll(/^\s*× \d+: (.*)$/gm)].map((match) => match[1] ?? "");
const unexpected = failed.filter((name) => !known.has(name));
const better = [...known.keys()].filter((name) => !failed.includes(name));
for (const name of new Set(unexpected)) process.stdout.write(`not held: ${name}\n`);
for (const name of better) process.stdout.write(`held, though it is listed as not: ${name}\n`);
process.exitCode = total && unexpected.length === 0 && better.length === 0 ? 0 : 1;
