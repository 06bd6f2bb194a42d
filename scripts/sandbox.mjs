// Runs a command in namespaces of its own (network, mounts, processes; and users, when not root), so
// that whatever it makes — network namespaces, rules, processes, files below /run and /tmp — is gone
// when it ends, however it ends. usage: node scripts/sandbox.mjs COMMAND [ARGS...]
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

/**
 * What the sandbox prepares before the command: its own /run and /tmp (which no killed process can
 * litter), loopback up, and a place for `ip netns` names. $TMPDIR stays out of it.
 */
const prepare = [
  "set -e",
  "mount -t tmpfs -o mode=755 meltemi /run",
  "mount -t tmpfs -o mode=1777 meltemi /tmp",
  "mkdir -p /run/netns /run/meltemi",
  "ip link set lo up",
  "export MELTEMI_SANDBOX=1 TMPDIR=/tmp",
  'exec "$@"',
].join("\n");

/** Parent and grandparent (npm runs scripts through a shell): when either dies, so shall we. */
function ancestors() {
  try {
    const stat = readFileSync(`/proc/${process.ppid}/stat`, "utf8");
    return `${process.ppid} ${stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]}`;
  } catch {
    return "gone";
  }
}

/** @param {string[]} command */
export function sandboxed(command) {
  const users = process.getuid?.() === 0 ? [] : ["--user", "--map-root-user"];
  const namespaces = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
  return ["unshare", ...users, ...namespaces, "sh", "-c", prepare, "sandbox", ...command];
}

/**
 * Resolves with the exit code. A signal to this process is passed on; a second one ends the sandbox.
 * @param {string[]} command
 * @param {{ env?: Record<string, string>, onStart?: (pid: number) => void }} [options] `onStart` is told the process
 *   through which others can enter the sandbox's namespaces
 * @returns {Promise<number>}
 */
export function runSandboxed(command, options = {}) {
  const [program = "", ...args] = sandboxed(command);
  const child = spawn(program, args, { stdio: "inherit", env: { ...process.env, ...options.env } });
  if (child.pid !== undefined) options.onStart?.(child.pid);
  // unshare blocks signals while it waits, and what runs inside is a namespace of its own: ending it
  // with SIGKILL ends all of it and leaves nothing. Only a terminal's Ctrl-C, which reaches the
  // command inside by itself, is left to it at first.
  let interrupts = 0;
  process.on("SIGINT", () => {
    interrupts += 1;
    if (interrupts > 1 || !process.stdin.isTTY) child.kill("SIGKILL");
  });
  for (const signal of /** @type {const} */ (["SIGTERM", "SIGHUP"]))
    process.on(signal, () => child.kill("SIGKILL"));
  const family = ancestors();
  const orphaned = setInterval(() => {
    if (ancestors() !== family) child.kill("SIGKILL");
  }, 500);
  return new Promise((resolve, reject) => {
    child.on("error", (error) =>
      reject(new Error(`the sandbox could not start: ${error.message}; unshare is in Debian's util-linux`)),
    );
    child.on("close", (code) => {
      clearInterval(orphaned);
      resolve(code ?? 130);
    });
  });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  process.exitCode = await runSandboxed(process.argv.slice(2));
}
