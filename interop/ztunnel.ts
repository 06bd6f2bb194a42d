import { createHash } from "node:crypto";
import { closeSync, openSync } from "node:fs";
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { spawn, type ChildProcess } from "node:child_process";
import { netnsPath } from "../demo/lab/command.js";

export interface ZtunnelOptions {
  /** The peer's binary, built outside this repository. */
  readonly binary: string;
  readonly nodeName: string;
  /** The node's namespace: the ztunnel's own sockets (admin, metrics) are there; its pods' are in theirs. */
  readonly netns: string;
  /** Our agent's socket, on which it tells which pods there are. */
  readonly zdsSocket: string;
  /** HOST:PORT of our control plane. */
  readonly controlPlane: string;
  readonly rootCertificate: string;
  readonly tokenFile: string;
  /** Where its own log goes. */
  readonly logFile: string;
  /** json where its log is to be read by a program; plain is its own default. */
  readonly logFormat?: "json" | "plain";
  /** Its private folder: a ztunnel looks for some files relative to where it runs. */
  readonly directory: string;
}

/** A real ztunnel, driven by our agent and our control plane. */
export class Ztunnel {
  readonly #child: ChildProcess;
  readonly logFile: string;

  private constructor(child: ChildProcess, logFile: string) {
    this.#child = child;
    this.logFile = logFile;
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  static async start(options: ZtunnelOptions): Promise<Ztunnel> {
    await mkdir(options.directory, { recursive: true });
    // The file itself, not a pipe through this process: what reads it must not slow what is measured.
    const log = openSync(options.logFile, "a");
    const child = spawn(
      "nsenter",
      [`--net=${netnsPath(options.netns)}`, "--", options.binary, "proxy", "ztunnel"],
      {
        cwd: options.directory,
        stdio: ["ignore", log, log],
        // A session of its own, as our agents give our data plane: the kernel shares CPU by session.
        detached: true,
        env: {
          PATH: process.env["PATH"] ?? "",
          RUST_LOG: "info",
          LOG_FORMAT: options.logFormat ?? "json",
          PROXY_MODE: "shared",
          INPOD_UDS: options.zdsSocket,
          XDS_ADDRESS: `https://${options.controlPlane}`,
          CA_ADDRESS: `https://${options.controlPlane}`,
          XDS_ROOT_CA: options.rootCertificate,
          CA_ROOT_CA: options.rootCertificate,
          AUTH_TOKEN: options.tokenFile,
          NODE_NAME: options.nodeName,
          POD_NAME: `ztunnel-${options.nodeName}`,
          POD_NAMESPACE: "meltemi-system",
          INSTANCE_IP: "127.0.0.1",
          CLUSTER_ID: "Kubernetes",
          ISTIO_META_DNS_CAPTURE: "false",
          ZTUNNEL_WORKER_THREADS: "2",
        },
      },
    );
    closeSync(log);
    return new Ztunnel(child, options.logFile);
  }

  /** Its log lines as objects; lines of another form are left out. */
  async log(): Promise<Record<string, unknown>[]> {
    const text = await readFile(this.logFile, "utf8").catch(() => "");
    return text
      .split("\n")
      .filter((line) => line.startsWith("{"))
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  }

  stop(): void {
    this.#child.kill("SIGTERM");
  }
}

/** SHA-256 of a file, in hex: which peer it was that was seen. */
export async function fileHash(path: string): Promise<string> {
  return createHash("sha256")
    .update(await readFile(path))
    .digest("hex");
}

/** Where a node's ztunnel keeps its log, below a state directory. */
export const ztunnelLog = (state: string, node: string): string => join(state, `ztunnel-${node}.log`);
