import { MeltemiError } from "../../src/domain/error.js";
import { startIn } from "./command.js";

/** A test kit command that goes on until it is stopped: it says when it is ready, and at its end what it saw. */
export class LongRunning {
  readonly #child: ReturnType<typeof startIn>;
  readonly #closed: Promise<void>;
  #output = "";
  #errors = "";
  /** Resolves with its first line, which says that it is ready; rejects when it ends before. */
  readonly ready: Promise<void>;

  constructor(netns: string | undefined, program: string, args: readonly string[]) {
    this.#child = startIn(netns, program, args);
    this.#child.stderr.on("data", (chunk: Buffer) => (this.#errors += chunk.toString()));
    this.#closed = new Promise((resolve) => this.#child.once("close", () => resolve()));
    this.ready = new Promise((resolve, reject) => {
      this.#child.stdout.on("data", (chunk: Buffer) => {
        this.#output += chunk.toString();
        if (this.#output.includes('"ready":true')) resolve();
      });
      this.#child.once("close", () =>
        reject(
          new MeltemiError("system", `${program} ${args.join(" ")} ended: ${this.#errors || this.#output}`),
        ),
      );
    });
    // Not everybody waits for it.
    this.ready.catch(() => undefined);
  }

  /** Ends it in order, and gives its last line: what it saw. */
  async stop(): Promise<unknown> {
    this.#child.kill("SIGTERM");
    await this.#closed;
    const last = this.#output.trim().split("\n").at(-1) ?? "";
    if (!last.startsWith("{")) throw new MeltemiError("internal", `no result from a client: ${this.#errors}`);
    return JSON.parse(last);
  }

  kill(): void {
    this.#child.kill("SIGKILL");
  }
}
