// npm run demo: set-up, then the demo in a sandbox of its own.
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { root, setup } from "./setup.mjs";
import { runSandboxed } from "./sandbox.mjs";

try {
  await setup();
  mkdirSync(join(root, ".cache"), { recursive: true });
  process.exitCode = await runSandboxed([
    process.execPath,
    join(root, "dist/demo/main.js"),
    ...process.argv.slice(2),
  ]);
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
