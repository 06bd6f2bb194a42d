// npm run interop -- --ztunnel PATH [--scenario NAME]: our parts beside a real ztunnel, each scenario
// in a sandbox of its own.
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { root, setup } from "./setup.mjs";
import { runSandboxed } from "./sandbox.mjs";

const args = process.argv.slice(2);
const value = (/** @type {string} */ flag) =>
  args.includes(flag) ? args[args.indexOf(flag) + 1] : undefined;
const ztunnel = value("--ztunnel");
if (ztunnel === undefined || !existsSync(ztunnel)) {
  process.stderr.write(
    `--ztunnel ${ztunnel ?? ""}: name a ztunnel's binary. Build one from its public sources, outside this repository.\n`,
  );
  process.exit(2);
}
const scenarios = [value("--scenario") ?? ["ztunnel-ztunnel", "meltemi-ztunnel", "ztunnel-meltemi"]].flat();
try {
  await setup();
  for (const scenario of scenarios) {
    const command = [
      process.execPath,
      join(root, "dist/interop/main.js"),
      "--scenario",
      scenario,
      "--ztunnel",
      resolve(ztunnel),
    ];
    process.exitCode = (await runSandboxed(command)) || process.exitCode;
  }
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
