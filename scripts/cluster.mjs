// npm run cluster: the cluster's command, after the set-up that it needs. usage: npm run cluster -- up | down | ...
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { provideForCluster, root, setup } from "./setup.mjs";

const main = join(root, "dist/e2e/cluster/main.js");
const args = process.argv.slice(2);

try {
  // Only what makes one waits for builds; taking it down never does.
  if (args.includes("up") || !existsSync(main)) {
    await setup({ native: false });
    provideForCluster();
  }
  process.exitCode = spawnSync(process.execPath, [main, ...args], { stdio: "inherit" }).status ?? 1;
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
