// npm run demo: set-up, then the demo in a sandbox of its own.
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { root, setup } from "./setup.mjs";
import { runSandboxed } from "./sandbox.mjs";

try {
  await setup();
  const args = process.argv.slice(2);
  // How to get in from another terminal is known only out here.
  const pidFile = join(root, ".cache/demo.pid");
  const keep = args.includes("--keep");
  process.exitCode = await runSandboxed([process.execPath, join(root, "dist/demo/main.js"), ...args], {
    onStart: (pid) => keep && writeFileSync(pidFile, `${pid}\n`),
  });
  if (keep) rmSync(pidFile, { force: true });
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
