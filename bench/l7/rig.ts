/** `l7_rig` (native/crates/proxy/examples): the waypoint with all that stands around it and around Envoy. */
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { z } from "zod";
import { MeltemiError } from "../../src/domain/error.js";
import { flags } from "../../demo/lab/flags.js";

const readyShape = z.object({
  waypoint: z.number(),
  backend: z.string(),
  backend_tls: z.string(),
  fronts: z.object({
    direct: z.string(),
    meltemi_http1: z.string(),
    meltemi_http2: z.string(),
    envoy_http1: z.string(),
    envoy_http2: z.string(),
  }),
});

export type RigPlaces = z.infer<typeof readyShape>;

export interface RigOptions {
  readonly binary: string;
  readonly proxy: string;
  readonly directory: string;
  readonly routes: number;
  readonly policy: boolean;
  readonly envoyPorts: readonly [number, number];
}

export class Rig {
  #child: ChildProcessByStdio<Writable, Readable, null> | undefined;
  #ended: Promise<void> = Promise.resolve();

  /** Starts it, and gives its addresses once the waypoint is ready. */
  async start(options: RigOptions): Promise<RigPlaces> {
    const { binary, proxy, directory, routes, policy, envoyPorts } = options;
    const envoy = envoyPorts.map((port) => `127.0.0.1:${port}`).join(",");
    const args = [...flags({ proxy, directory, routes, envoy }), ...(policy ? ["--policy"] : [])];
    const child = spawn(binary, args, { stdio: ["pipe", "pipe", "inherit"], detached: true });
    this.#child = child;
    this.#ended = new Promise((resolve) => child.once("close", () => resolve()));
    for await (const line of createInterface({ input: child.stdout }))
      return readyShape.parse(JSON.parse(line));
    throw new MeltemiError("internal", `${binary} ended before it was ready`);
  }

  route(version: string): void {
    this.#child?.stdin.write(`route ${version}\n`);
  }

  /** It ends its waypoint, too, when its input ends. */
  async stop(): Promise<void> {
    this.#child?.stdin.end();
    await this.#ended;
  }
}
