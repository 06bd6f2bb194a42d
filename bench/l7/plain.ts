import { type ChildProcessByStdio, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import { MeltemiError } from "../../src/domain/error.js";

export interface PlainJob {
  /** IP:PORT */
  readonly backend: string;
  readonly kind: "http1" | "http2";
  readonly routes: number;
  readonly policy: boolean;
}

/** The waypoint's core as a plain reverse proxy (native/crates/http/examples/plain.rs). */
export class Plain {
  #child: ChildProcessByStdio<null, Readable, null> | undefined;
  #address = "";

  get pid(): number {
    return this.#child?.pid ?? 0;
  }

  get address(): string {
    return this.#address;
  }

  async start(binary: string, { backend, kind, routes, policy }: PlainJob): Promise<void> {
    const args = [backend, kind, String(routes), ...(policy ? ["policy"] : [])];
    const child = spawn(binary, args, { stdio: ["ignore", "pipe", "inherit"], detached: true });
    this.#child = child;
    for await (const line of createInterface({ input: child.stdout })) {
      this.#address = line;
      return;
    }
    throw new MeltemiError("internal", `${binary} ended before it was ready`);
  }

  stop(): void {
    this.#child?.kill("SIGKILL");
  }
}
