/** `meltemi node` as a process, with its data plane and no control plane. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../../", import.meta.url));

/** The command line, and files for it below `directory`. */
export function agentCommand(directory: string, config: string, run: string): readonly [string, string[]] {
  mkdirSync(directory, { recursive: true });
  for (const name of ["root.pem", "token"]) writeFileSync(join(directory, name), "none");
  const flags = {
    node: "n1",
    config,
    "run-dir": run,
    "state-dir": join(directory, "state"),
    "control-plane": "unix:/run/none.sock",
    "control-plane-root": join(directory, "root.pem"),
    "token-file": join(directory, "token"),
    "metrics-address": "none",
    "ready-address": "none",
    proxy: join(root, "target/release/meltemi-proxy"),
    "log-format": "json",
  };
  const args = Object.entries(flags).flatMap(([name, value]) => [`--${name}`, value]);
  return [process.execPath, [join(root, "bin/meltemi"), "node", ...args]];
}

/** As standalone sets it. */
export const agentEnvironment = { PATH: process.env["PATH"] ?? "", MALLOC_ARENA_MAX: "2" };
