/** Requests without a pause through a fault, each over a connection of its own and with a marker in its body. */
import { spawn, type ChildProcess } from "node:child_process";
import { eventually } from "../../../helpers/eventually.js";
import { commandIn, testkit } from "./kit.js";

interface Attempt {
  readonly at_ms: number;
  readonly latency_ms: number;
  readonly status?: number;
}

export interface Endured {
  readonly attempted: number;
  readonly ok: number;
  /** The longest time without a success, from the moment that was given. */
  readonly longestOutageMs: number;
}

export class Traffic {
  readonly #child: ChildProcess;
  readonly #closed: Promise<unknown>;
  readonly #attempts: Attempt[] = [];

  constructor(netns: string, url: string, marker: string) {
    const flags = [
      "--until-signal",
      "--lines",
      "--keepalive",
      "false",
      "--interval-ms",
      "10",
      "--concurrency",
      "1",
    ];
    const body = ["--method", "POST", "--body", marker, "--body-bytes", String(marker.length * 20)];
    const args = ["client", "http", "--url", url, ...flags, ...body, "--timeout-ms", "1000"];
    const [program = "", ...rest] = commandIn(netns, [testkit, ...args], "root");
    this.#child = spawn(program, rest, { stdio: ["ignore", "pipe", "ignore"] });
    this.#closed = new Promise((resolve) => this.#child.once("close", resolve));
    let pending = "";
    this.#child.stdout?.on("data", (chunk: Buffer) => {
      const lines = (pending + chunk.toString()).split("\n");
      pending = lines.pop() ?? "";
      for (const line of lines)
        if (line.includes('"at_ms"')) this.#attempts.push(JSON.parse(line) as Attempt);
    });
  }

  /** Waits for the end of a first attempt, however it ended. */
  attempted(patienceMs: number): Promise<true> {
    return eventually("a request to be attempted", () => this.#attempts.length > 0, patienceMs);
  }

  /** Waits for that many successes in a row that were begun after a moment (milliseconds since 1970). */
  successes(count: number, afterMs: number, patienceMs: number): Promise<true> {
    return eventually(
      `${count} requests in a row to succeed`,
      () => {
        const latest = this.#attempts.filter(({ at_ms: at }) => at >= afterMs).slice(-count);
        return latest.length === count && latest.every(({ status }) => status === 200);
      },
      patienceMs,
    );
  }

  async stop(faultAtMs: number): Promise<Endured> {
    this.kill("SIGTERM");
    await this.#closed;
    const good = this.#attempts
      .filter(({ status }) => status === 200)
      .map(({ at_ms: at, latency_ms: took }) => at + took)
      .filter((at) => at >= faultAtMs)
      .sort((a, b) => a - b);
    let [last, longest] = [faultAtMs, 0];
    for (const at of good) {
      longest = Math.max(longest, at - last);
      last = at;
    }
    const ok = this.#attempts.filter(({ status }) => status === 200).length;
    return { attempted: this.#attempts.length, ok, longestOutageMs: Math.round(longest) };
  }

  kill(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }
}
