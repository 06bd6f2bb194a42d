/**
 * The node agent: which pods of this node are in the mesh, and all that follows. Wires the rooms' parts
 * together; every decision is in them.
 */
import { setMaxListeners } from "node:events";
import { fstatSync } from "node:fs";
import { messageOf } from "../domain/error.js";
import { every, type Clock } from "../platform/clock.js";
import type { Registry } from "prom-client";
import type { Source } from "../domain/source-event.js";
import type { Files } from "../platform/files.js";
import type { Logger } from "../platform/logger.js";
import type { NativeAddon } from "../platform/native.js";
import { systemProcesses } from "../platform/process.js";
import type { Random } from "../platform/random.js";
import { isOwnerOrRoot, type UnixListenOptions } from "../platform/unix-accept.js";
import { serveUnixHttp } from "../platform/unix-http-server.js";
import { AgentMonitor } from "./admin/monitor.js";
import { adminHandler, controlHandler } from "./admin/handlers.js";
import { metricsPages, readyPages, servePages } from "./admin/tcp.js";
import { agentLimits as limits, agentPaths, type AgentOptions } from "./agent-options.js";
import { assembleCni, type CniPart } from "./cni/assembly.js";
import { assembleCri } from "./cri/assembly.js";
import { assembleCaptures } from "./capture/assembly.js";
import { assembleEnrolment } from "./enrol/assembly.js";
import type { NodePods } from "./enrol/node-pods.js";
import { KeySafe } from "./keys/safe.js";
import { KeyServer } from "./keys/server.js";
import type { NodeMetrics, SocketName } from "./metrics/node-metrics.js";
import { assembleRelay } from "./relay/assembly.js";
import { DataPlaneSupervisor } from "./supervise/data-plane.js";
import { boundLog, openLog } from "./supervise/log-file.js";
import { pidFile } from "./supervise/pid-file.js";
import { readyProbe } from "./supervise/probe.js";
import { proxyArguments } from "./supervise/proxy-arguments.js";
import { ZdsServer } from "./zds/server.js";

export interface AgentPlatform {
  readonly native: NativeAddon;
  readonly files: Files;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  /** The node's pods and all namespaces; its metrics are the agent's. */
  readonly source: (registry: Registry) => Source;
  readonly version: string;
  /** Environment of the data plane. */
  readonly proxyEnvironment: Readonly<Record<string, string>>;
}

/**
 * Runs until the signal aborts, then leaves cleanly: pods first, so that their connections drain, then the
 * data plane, then sockets and files. Rejects where it cannot start, or where the source ends by itself.
 */
export async function runAgent(
  options: AgentOptions,
  platform: AgentPlatform,
  signal: AbortSignal,
): Promise<void> {
  const { native, files, clock, random, log } = platform;
  const paths = agentPaths(options);
  for (const directory of [options.runDir, options.stateDir, paths.logs])
    await files.makeDirectory(directory, 0o700);

  /** Aborted last, when the pods have left. */
  const servers = new AbortController();
  // Every listener, connection and stream ends with these.
  setMaxListeners(0, servers.signal, signal);
  const monitor = new AgentMonitor(options, platform);
  const { metrics } = monitor;
  const listen = (path: string, socket: SocketName): UnixListenOptions => ({
    native,
    clock,
    path,
    signal: servers.signal,
    onRefused: () => metrics.peerRefused(socket),
    onError: (error) => log.error("socket failed", { socket, error: messageOf(error) }),
  });
  const admits = (socket: SocketName) => (peer: { readonly uid: number; readonly pid: number }) => {
    const admitted = isOwnerOrRoot({ gid: 0, ...peer });
    if (!admitted) metrics.peerRefused(socket);
    return admitted;
  };

  const closeFd = (fd: number): void => native.closeFd(fd);
  const zds = new ZdsServer({
    clock,
    log,
    closeFd,
    admits: admits("zds"),
    ackTimeoutMs: limits.ackTimeoutMs,
    onMalformed: () => metrics.peerMalformed("zds"),
  });
  const captures = await assembleCaptures(
    {
      node: options.node,
      redirectMode: options.redirectMode,
      bpfDir: options.bpfDir,
      dataPlaneRegisters: options.proxy !== undefined || options.dataPlaneRegisters,
      verifyIntervalMs: limits.verifyIntervalMs,
    },
    { native, clock, random, log, onHostRepair: (part) => metrics.hostRepaired(part) },
  );
  const pods = await assembleEnrolment(
    {
      node: options.node,
      cluster: options.clusterId,
      recordPath: paths.captured,
      verifyIntervalMs: limits.verifyIntervalMs,
      watchedIntervalMs: limits.watchedIntervalMs,
      captureGraceMs: limits.captureGraceMs,
      drainTimeoutMs: limits.drainTimeoutMs,
    },
    { native, files, clock, random, log, dataPlanes: zds, observer: metrics, captures },
  );
  const cni =
    options.cni &&
    assembleCni(
      options.cni,
      paths,
      {
        native,
        files,
        clock,
        log,
        pods,
        onAnswer: (verb, result) => metrics.cniAnswered(verb, result),
      },
      listen(options.cni.socket, "cni"),
    );
  const cri = options.criSocket === undefined ? undefined : assembleCri(options.criSocket, platform, pods);
  const relay = assembleRelay(options, paths, platform, {
    listen: { ...listen(paths.xds, "xds"), onMalformed: () => metrics.peerMalformed("xds") },
    registry: metrics.registry,
    hosts: (namespace, serviceAccount) => pods.hosts(namespace, serviceAccount),
    onCertificate: (result) => metrics.certificateRelayed(result),
  });
  const bpfDir = (captures.choice.guard === "bpf" ? options.bpfDir : undefined) ?? "none";
  const supervisor = superviseProxy(options, platform, metrics, bpfDir, () => relay.dataPlaneStarted());
  const safe = new KeySafe({
    memfdSeals: (fd) => native.memfdSeals(fd),
    sizeBytes: (fd) => fstatSync(fd).size,
    closeFd,
  });
  const isOurs = admits("keys");
  const keys = new KeyServer({
    safe,
    closeFd,
    admits: async (peer) => {
      if (!isOurs(peer)) return false;
      const supervised = (await supervisor?.owns(peer.pid)) ?? true;
      if (!supervised) {
        metrics.peerRefused("keys");
        log.warn("key request of another process refused", { pid: peer.pid });
      }
      return supervised;
    },
    onMalformed: () => metrics.peerMalformed("keys"),
    clock,
    log,
  });
  monitor.watch({ pods, captures, zds, relay: relay.discovery, supervisor });

  /** Ends what must not outlive a failure. */
  const failed = new AbortController();
  const running: Promise<unknown>[] = [];
  let supervising: Promise<void> | undefined;
  try {
    await cni?.load();
    await cri?.load(signal);
    running.push(
      Promise.resolve(cni?.run(servers.signal)),
      Promise.resolve(cri?.run(signal)),
      keys.run(native.PacketListener.bind(paths.keys, 0o600), servers.signal),
      relay.run(servers.signal),
      serveAdmin(monitor, listen),
      captures.hostProbes.run(servers.signal),
    );
    for (const [address, pages] of [
      [options.metricsAddress, metricsPages(() => monitor.exposition())],
      [options.readyAddress, readyPages(() => monitor.waiting())],
    ] as const) {
      if (address !== undefined) await servePages(address, pages, servers.signal);
    }
    running.push(
      // A data plane that is told of too few pods ends the others: it is told nothing before all have been looked at.
      pods.firstRound.then(() =>
        servers.signal.aborted
          ? undefined
          : zds.run(native.PacketListener.bind(paths.zds, 0o600), servers.signal),
      ),
      every(clock, limits.logCheckMs, () => boundLog(paths.proxyLog, limits.logBytes), {
        signal: AbortSignal.any([signal, failed.signal]),
        background: true,
        onError: (error) => log.warn("data plane's log not bounded", { error: messageOf(error) }),
      }),
    );
    supervising = supervisor?.run(AbortSignal.any([signal, failed.signal]));
    running.push(Promise.resolve(supervising));
    log.info("node agent started", { version: platform.version });
    const sourcing = platform.source(metrics.registry).run((batch) => {
      monitor.configured();
      for (const problem of batch.problems) log.debug("configuration problem", { ...problem });
      pods.take(batch);
    }, signal);
    // A part that fails ends the wait; parts that end well do not.
    await Promise.race([sourcing, Promise.all(running).then(() => sourcing)]);
    await supervising;
    await leave(options, pods, supervisor, cni);
    if (!options.leaveDataPlane) captures.end();
  } catch (error) {
    // As if killed, for what serves traffic: the next agent takes it over. A data plane that knows of no pod serves none.
    failed.abort();
    await Promise.allSettled([supervising]);
    await pods.abandonAll();
    if (monitor.isConfigured) supervisor?.release();
    else {
      await supervisor?.undo();
      captures.end();
    }
    throw error;
  } finally {
    servers.abort();
    safe.clear();
    cri?.close();
    await Promise.allSettled(running);
  }
  log.info("node agent stopped");
}

async function leave(
  options: AgentOptions,
  pods: NodePods,
  supervisor: DataPlaneSupervisor | undefined,
  cni: CniPart | undefined,
): Promise<void> {
  if (options.leaveDataPlane) {
    await pods.abandonAll();
    supervisor?.release();
    return;
  }
  await pods.leaveAll();
  await cni?.uninstall();
  await supervisor?.stop();
}

function superviseProxy(
  options: AgentOptions,
  platform: AgentPlatform,
  metrics: NodeMetrics,
  bpfDir: string,
  onAnswering: () => void,
): DataPlaneSupervisor | undefined {
  if (options.proxy === undefined) return undefined;
  const { native, files, clock, random, log, proxyEnvironment } = platform;
  const paths = agentPaths(options);
  return new DataPlaneSupervisor(
    {
      command: options.proxy,
      args: proxyArguments(options, bpfDir),
      ownArguments: ["--run-dir", options.runDir],
      env: proxyEnvironment,
      logFile: paths.proxyLog,
      startTimeoutMs: limits.proxyStartTimeoutMs,
      probeIntervalMs: limits.probeIntervalMs,
      probeFailures: limits.probeFailures,
      stopTimeoutMs: limits.proxyStopTimeoutMs,
    },
    {
      processes: systemProcesses(native, clock),
      pidFile: pidFile(files, paths.pidFile),
      openLog: (path) =>
        openLog(path, (error) => log.error("data plane runs without its log", { error: messageOf(error) })),
      probe: readyProbe(paths.proxyAdmin, limits.probeTimeoutMs),
      clock,
      random,
      log,
      onRestart: () => metrics.dataPlaneRestarted(),
      onAnswering,
    },
  );
}

async function serveAdmin(
  monitor: AgentMonitor,
  listen: (path: string, socket: SocketName) => UnixListenOptions,
): Promise<void> {
  const { paths, adminParts } = monitor;
  await Promise.all([
    serveUnixHttp({ ...listen(paths.nodeAdmin, "node-admin"), handler: adminHandler(adminParts) }).ended,
    serveUnixHttp({ ...listen(paths.nodeControl, "node-control"), handler: controlHandler(adminParts) })
      .ended,
  ]);
}
