// npm run bench [-- l4|l7|capture|control-plane|ca] [options]: builds what is shipped, and measures it in a sandbox.
import { execFileSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { root, setup } from "./setup.mjs";
import { runSandboxed } from "./sandbox.mjs";

try {
  await setup({ profile: "dist" });
  if (process.argv[2] === "l7") {
    const crates = ["-p", "meltemi-proxy", "-p", "meltemi-http"];
    const args = ["build", "--locked", "--profile", "dist", ...crates, "--bins", "--examples"];
    execFileSync("cargo", args, { cwd: root, stdio: ["ignore", "inherit", "inherit"] });
  }
  mkdirSync(join(root, ".cache"), { recursive: true });
  process.exitCode = await runSandboxed([
    process.execPath,
    join(root, "dist/bench/main.js"),
    ...process.argv.slice(2),
  ]);
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
