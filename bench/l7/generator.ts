/** The load: h2load of nghttp2 (Debian: nghttp2-client), for HTTP/1.1, HTTP/2 and gRPC alike. */
import { readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { execa } from "execa";
import { MeltemiError } from "../../src/domain/error.js";
import { cpuSeconds, residentMb, sum } from "../l4/processes.js";

export type Protocol = "http1" | "http2" | "grpc";

export interface Load {
  readonly protocol: Protocol;
  /** IP:PORT */
  readonly to: string;
  readonly path: string;
  readonly connections: number;
  /** Requests on one connection at a time. */
  readonly streams: number;
  /** Requests per second of all connections together; undefined: as many as can be. */
  readonly rate: number | undefined;
  readonly seconds: number;
  readonly warmupSeconds: number;
  /** Whose CPU and memory are read while it runs. */
  readonly charged: readonly number[];
}

export interface Outcome {
  readonly perSecond: number;
  readonly done: number;
  readonly failed: number;
  /** Of a paced load, in milliseconds. */
  readonly p50Ms: number | undefined;
  readonly p99Ms: number | undefined;
  /** CPU-seconds per second. */
  readonly cores: number;
  /** At the end of the load, while it still runs. */
  readonly residentMb: number;
}

/** The reading of CPU clocks stays this far from the ends of the measured time. */
const marginMs = 150;

/** A gRPC message of 64 bytes, in its frame. */
const grpcMessage = Buffer.concat([Buffer.from([0, 0, 0, 0, 64]), Buffer.alloc(64, "x")]);

function counted(output: string, pattern: RegExp): number {
  const value = Number(pattern.exec(output)?.[1]);
  if (Number.isNaN(value)) throw new MeltemiError("internal", `h2load says no ${pattern.source}: ${output}`);
  return value;
}

/** Where a share of sorted values lies. */
export function quantile(sorted: readonly number[], share: number): number | undefined {
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
}

async function latencies(file: string): Promise<readonly number[]> {
  const lines = (await readFile(file, "utf8")).split("\n");
  // Start, status, time in microseconds.
  const times = lines.flatMap((line) => {
    const [, status, us] = line.split("\t");
    return us === undefined || !status?.startsWith("2") ? [] : [Number(us) / 1000];
  });
  return times.sort((a, b) => a - b);
}

/** Puts the load on, and gives what came of it. `scratch`: a directory for its files. */
export async function load(what: Load, scratch: string): Promise<Outcome> {
  const message = join(scratch, "message.grpc");
  const log = join(scratch, "requests.log");
  await writeFile(message, grpcMessage);
  await rm(log, { force: true });
  const { protocol, connections, streams, rate, seconds, warmupSeconds, charged } = what;
  const grpc = ["-d", message, "-H", "content-type: application/grpc", "-H", "te: trailers"];
  const path = protocol === "grpc" ? `${what.path}/Echo` : what.path;
  const running = execa(
    "h2load",
    [
      ...(protocol === "http1" ? ["--h1"] : ["-p", "h2c"]),
      ...(protocol === "grpc" ? grpc : []),
      ...["-t", "1", "-c", String(connections), "-m", String(protocol === "http1" ? 1 : streams)],
      ...["-D", String(seconds), `--warm-up-time=${warmupSeconds * 1000}ms`],
      ...(rate === undefined ? [] : [`--rps=${rate / connections}`, `--log-file=${log}`]),
      `http://${what.to}${path}`,
    ],
    { reject: false },
  );
  const read = (): { atMs: number; cpu: number } => ({ atMs: performance.now(), cpu: cpuSeconds(charged) });
  await sleep(warmupSeconds * 1000 + marginMs);
  const before = read();
  await sleep(seconds * 1000 - 2 * marginMs);
  const after = read();
  const resident = sum(residentMb(charged));
  const { stdout, stderr, failed } = await running;
  if (failed) throw new MeltemiError("internal", `h2load failed: ${stderr || stdout}`);
  const sorted = rate === undefined ? [] : await latencies(log);
  return {
    perSecond: counted(stdout, /, ([\d.]+) req\/s/),
    done: counted(stdout, /(\d+) succeeded/),
    failed:
      counted(stdout, /(\d+) failed/) + counted(stdout, /(\d+) errored/) + counted(stdout, /(\d+) timeout/),
    p50Ms: quantile(sorted, 0.5),
    p99Ms: quantile(sorted, 0.99),
    cores: (after.cpu - before.cpu) / ((after.atMs - before.atMs) / 1000),
    residentMb: resident,
  };
}
