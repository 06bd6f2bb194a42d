/** The control plane's part that is measured: source, model, compiler, snapshot, discovery over TLS. */
import { Server, ServerCredentials } from "@grpc/grpc-js";
import { Registry } from "prom-client";
import { Compiler } from "../../src/compile/compiler.js";
import { defaultCompileConfig } from "../../src/compile/config.js";
import type { SourceEvent } from "../../src/domain/source-event.js";
import { systemClock } from "../../src/platform/clock.js";
import { keepHeapSmall } from "../../src/platform/small-heap.js";
import { createLogger } from "../../src/platform/logger.js";
import { FileSource } from "../../src/sources/files/file-source.js";
import { CompiledSnapshot } from "../../src/xds/compiled-snapshot.js";
import { DiscoveryHub } from "../../src/xds/delta-stream.js";
import { DiscoveryMetrics } from "../../src/xds/discovery-metrics.js";
import { discoveryServerOptions, DiscoveryService } from "../../src/xds/discovery-service.js";
import { discoveryServiceDefinition } from "../../src/xds/wire.js";
import {
  percentiles,
  type ServerCommand,
  type ServerReport,
  sharedNowMs,
  type TlsFiles,
} from "./messages.js";
import { interestedNodes, podObject, worldObjects, type WorldSize } from "./world.js";

keepHeapSmall();
const logger = createLogger({ level: "error", format: "json", clock: systemClock });
const compiler = new Compiler(defaultCompileConfig);
const snapshot = new CompiledSnapshot();
let world: WorldSize | undefined;

function report(message: ServerReport): void {
  process.send?.(message);
}

function megabytes(bytes: number): number {
  return Math.round(bytes / 1e5) / 10;
}

function take(events: readonly SourceEvent[]): void {
  snapshot.applyChange(compiler.apply(events));
}

async function load(size: WorldSize, directory: string | undefined): Promise<void> {
  if (directory === undefined) {
    take([...worldObjects(size)].map((object) => ({ type: "apply", object })));
    return;
  }
  await new Promise<void>((resolve, reject) => {
    const source = new FileSource({ directory, clock: systemClock, logger });
    source
      .run((batch) => {
        take(batch.events);
        resolve();
      }, new AbortController().signal)
      .catch(reject);
  });
}

async function start(size: WorldSize, directory: string | undefined, tls: TlsFiles): Promise<void> {
  world = size;
  const hub = new DiscoveryHub(snapshot, () => systemClock.monotonic());
  const service = new DiscoveryService({
    hub,
    authenticate: (call) => ({ node: call.metadata.get("node").join("") }),
    metrics: new DiscoveryMetrics(new Registry()),
    clock: systemClock,
    logger,
  });
  const server = new Server(discoveryServerOptions);
  server.addService(discoveryServiceDefinition, service.implementation);
  const pair = { private_key: Buffer.from(tls.key), cert_chain: Buffer.from(tls.certificate) };
  const credentials = ServerCredentials.createSsl(null, [pair], false);
  await load(size, directory);
  server.bindAsync("127.0.0.1:0", credentials, (error, port) => {
    if (error) throw error;
    report({ type: "ready", port, readyMs: performance.now(), rssMb: megabytes(process.memoryUsage.rss()) });
  });
}

/** One pod at a time gets a new version label that says when. */
async function change(size: WorldSize, perSecond: number, seconds: number): Promise<void> {
  const total = perSecond * seconds;
  const startMs = performance.now();
  const compileMs: number[] = [];
  let expected = 0;
  for (let index = 0; index < total; index++) {
    const dueMs = startMs + (index * 1000) / perSecond;
    await systemClock.sleep(Math.max(0, dueMs - performance.now()));
    const pod = (index * 7919) % size.pods;
    const atMs = performance.now();
    take([{ type: "apply", object: podObject(size, pod, `t${sharedNowMs().toFixed(3)}`) }]);
    compileMs.push(performance.now() - atMs);
    expected += interestedNodes(size, pod).size;
  }
  report({ type: "changed", expected, changes: total, compileMs: percentiles(compileMs) });
}

process.on("message", (command: ServerCommand) => {
  switch (command.type) {
    case "start":
      void start(command.size, command.directory, command.tls);
      return;
    case "change":
      if (world) void change(world, command.perSecond, command.seconds);
      return;
    case "memory": {
      const { rss, heapUsed } = process.memoryUsage();
      const peakMb = megabytes(process.resourceUsage().maxRSS * 1024);
      report({ type: "memory", rssMb: megabytes(rss), peakMb, heapMb: megabytes(heapUsed) });
    }
  }
});
process.on("disconnect", () => process.exit(0));
