import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { eventually, run, runIn } from "../../../demo/lab/command.js";

const testkit = fileURLToPath(new URL("../../../target/release/meltemi-testkit", import.meta.url));

/** All that capture could change in a namespace, as text: compared before and after. */
export async function dump(netns: string): Promise<string> {
  const sysctls = "sysctl -a 2>/dev/null | grep -E '^net\\.(ipv4|ipv6)' | sort";
  const commands =
    "nft list ruleset; ip rule show; ip -6 rule show; ip route show table all; ip -6 route show table all; ip address show";
  return run("nsenter", [`--net=/run/netns/${netns}`, "--", "sh", "-c", `${commands}; ${sysctls}`]);
}

/** Resolves when none of the namespace's addresses is being probed for duplicates any more: `dump` would show the end of it. */
export async function settled(netns: string): Promise<void> {
  await eventually(
    "addresses to be settled",
    async () => !(await runIn(netns, "ip", ["address", "show"])).includes("tentative") || undefined,
  );
}

/** A program of a pod, given as JavaScript for Node; its standard output by line. */
export class PodProgram {
  readonly lines: string[] = [];
  readonly #waiters = new Set<() => void>();

  private constructor(private readonly child: ChildProcess) {
    let rest = "";
    child.stdout?.on("data", (chunk: Buffer) => {
      const parts = (rest + chunk.toString()).split("\n");
      rest = parts.pop() ?? "";
      this.lines.push(...parts);
      for (const waiter of this.#waiters) waiter();
    });
  }

  static start(netns: string, script: string): Promise<PodProgram> {
    return PodProgram.#run(netns, [process.execPath, "-e", script], "ready");
  }

  /** Stands in for the data plane on one of its ports: transparent, with its mark; greets with a word and echoes. */
  static listener(netns: string, port: number, word: string): Promise<PodProgram> {
    const flags = ["--listen", `[::]:${port}`, "--greeting", `${word}\n`, "--as-proxy"];
    return PodProgram.#run(netns, [testkit, "serve", "tcp", ...flags], '{"listening"');
  }

  static async #run(netns: string, command: readonly string[], ready: string): Promise<PodProgram> {
    const child = spawn("nsenter", [`--net=/run/netns/${netns}`, "--", ...command], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    const program = new PodProgram(child);
    await program.line(ready);
    return program;
  }

  /** Resolves when a line with that beginning has come. */
  line(beginning: string): Promise<string> {
    return new Promise((resolve) => {
      const look = (): void => {
        const found = this.lines.find((line) => line.startsWith(beginning));
        if (found === undefined) return;
        this.#waiters.delete(look);
        resolve(found);
      };
      this.#waiters.add(look);
      look();
    });
  }

  write(text: string): void {
    this.child.stdin?.write(text);
  }

  async stop(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const exited = once(this.child, "exit");
    this.child.kill("SIGKILL");
    await exited;
  }
}

/** A TCP server that greets with a word and echoes. */
export const greeter = (port: number, word: string, host = "::"): string => `
  require("node:net").createServer((socket) => {
    socket.on("error", () => {});
    socket.write(${JSON.stringify(word)} + "\\n");
    socket.pipe(socket);
  }).listen({ port: ${port}, host: ${JSON.stringify(host)} }, () => console.log("ready"));`;

/** Connects, and answers with the server's first line, or the error's code. */
export async function greeting(
  netns: string,
  host: string,
  port: number,
  timeoutMs = 2_000,
): Promise<string> {
  const script = `
    const socket = require("node:net").connect({ host: ${JSON.stringify(host)}, port: ${port} });
    const say = (text) => { console.log(text); process.exit(0); };
    socket.setTimeout(${timeoutMs}, () => say("timeout"));
    socket.on("error", (error) => say(error.code));
    socket.on("end", () => say("closed"));
    socket.on("data", (data) => say(data.toString().trim()));`;
  return (await runIn(netns, process.execPath, ["-e", script])).trim();
}

/** A client that keeps one connection: what is written to it goes out, what comes back is printed. */
export const holder = (host: string, port: number): string => `
  const socket = require("node:net").connect({ host: ${JSON.stringify(host)}, port: ${port} });
  socket.once("data", (data) => {
    console.log("ready " + data.toString().trim());
    socket.on("data", (more) => console.log("echo " + more.toString().trim()));
  });
  socket.on("close", () => console.log("closed"));
  socket.on("error", (error) => console.log("error " + error.code));
  process.stdin.pipe(socket);`;

/** A UDP server that answers every datagram with the same. */
export const udpEcho = (port: number): string => `
  const socket = require("node:dgram").createSocket("udp6");
  socket.on("message", (message, peer) => socket.send(message, peer.port, peer.address));
  socket.bind(${port}, "::", () => console.log("ready"));`;

/** What a UDP server answers, or "timeout". */
export async function datagram(
  netns: string,
  host: string,
  port: number,
  timeoutMs = 2_000,
): Promise<string> {
  const script = `
    const socket = require("node:dgram").createSocket(${host.includes(":") ? '"udp6"' : '"udp4"'});
    const say = (text) => { console.log(text); process.exit(0); };
    setTimeout(() => say("timeout"), ${timeoutMs});
    socket.on("message", (message) => say(message.toString()));
    socket.send("datagram", ${port}, ${JSON.stringify(host)});`;
  return (await runIn(netns, process.execPath, ["-e", script])).trim();
}
