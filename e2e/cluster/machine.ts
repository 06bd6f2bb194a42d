/**
 * The machine that carries a cluster: namespaces of its own for network, mounts, processes, names and IPC. Whatever is
 * started inside is gone when its first process is killed, which is all that taking a cluster down needs.
 */
import { spawn } from "node:child_process";
import { closeSync, existsSync, openSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { execa } from "execa";
import { eventually } from "../../demo/lab/command.js";
import { MeltemiError } from "../../src/domain/error.js";
import { network, type Layout } from "./layout.js";
import { killAll, marked } from "./process-table.js";

const mark = "meltemi-cluster-machine";

/** `wait` in dash collects every child that ends, adopted ones too, which a first process must. */
const idle = "while :; do sleep 3600 & wait $!; done";

const machineScript = [
  "set -e",
  "mount --make-rprivate /",
  "mount -t tmpfs -o mode=755 meltemi /run",
  "mkdir -p /run/netns",
  "ip link set lo up",
  `ip link add ${network.lan.bridge} type bridge`,
  `ip addr add ${network.lan.address}/${network.lan.bits} dev ${network.lan.bridge}`,
  `ip link set ${network.lan.bridge} up`,
  "echo 1 > /proc/sys/net/ipv4/ip_forward",
  // A load balancer spreads connections, not clients.
  "echo 1 > /proc/sys/net/ipv4/fib_multipath_hash_policy",
  'echo ready > "$1/machine.ready"',
  idle,
].join("\n");

/** Runs a component again when it ends, and notes how it did. */
const superviseScript = `#!/bin/sh
# usage: supervise.sh LOG COMMAND...
log=$1
shift
while :; do
  "$@" >>"$log" 2>&1
  echo "ended with $?" >>"$log.exits"
  sleep 1
done
`;

export class Machine {
  private constructor(
    readonly layout: Layout,
    /** Its first process, as seen from outside. */
    readonly pid: number,
  ) {}

  /** The machine of this directory, if it runs. */
  static find(layout: Layout): Machine | undefined {
    const first = marked([mark, layout.directory]).find((one) => one.shell);
    return first === undefined ? undefined : new Machine(layout, first.pid);
  }

  static async start(layout: Layout): Promise<Machine> {
    const ready = join(layout.directory, "machine.ready");
    rmSync(ready, { force: true });
    writeFileSync(layout.supervisor, superviseScript, { mode: 0o755 });
    const log = openSync(layout.log("machine"), "a");
    const namespaces = ["--net", "--mount", "--pid", "--uts", "--ipc", "--mount-proc"];
    const child = spawn(
      "unshare",
      [...namespaces, "--fork", "--kill-child", "sh", "-c", machineScript, mark, layout.directory],
      { detached: true, stdio: ["ignore", log, log], cwd: "/" },
    );
    closeSync(log);
    child.unref();
    return eventually("the machine's namespaces", () => {
      if (child.exitCode !== null)
        throw new MeltemiError(
          "system",
          `the machine's namespaces could not be made: see ${layout.log("machine")}`,
        );
      return existsSync(ready) && Machine.find(layout);
    });
  }

  /** Ends everything in it. Also of one that has not come up, or whose directory is gone. */
  static async end(layout: Layout): Promise<void> {
    await killAll(marked([mark, layout.directory]).map(({ pid }) => pid));
  }

  /** The command that runs another in the machine's namespaces. Not of use for paths below /run or a working directory. */
  inside(command: readonly string[]): readonly [string, readonly string[]] {
    const which = ["--net", "--mount", "--pid", "--uts", "--ipc"];
    return ["nsenter", [`--target=${this.pid}`, ...which, "--", ...command]];
  }

  /** Runs a command in the machine to its end, and gives its output. */
  async run(command: readonly string[], input?: string): Promise<string> {
    const [program, args] = this.inside(command);
    const result = await execa(program, args, { reject: false, ...(input === undefined ? {} : { input }) });
    if (result.failed)
      throw new MeltemiError(
        "system",
        `${command.join(" ")}: ${result.stderr || result.stdout || result.shortMessage || "failed"}`,
      );
    return result.stdout;
  }

  /** Starts a command in the machine that goes on without us: its parent is the machine's first process. */
  async start(log: string, command: readonly string[]): Promise<void> {
    await this.run([
      "sh",
      "-c",
      'log=$1; shift; setsid "$@" </dev/null >>"$log" 2>&1 &',
      "start",
      log,
      ...command,
    ]);
  }

  /** Starts a component that is started again whenever it ends. */
  async supervise(component: string, command: readonly string[]): Promise<void> {
    const log = this.layout.log(component);
    await this.start(log, [this.layout.supervisor, log, ...command]);
  }
}
