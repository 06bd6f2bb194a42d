/**
 * The control plane as one process: a directory of YAML, or a cluster -> model -> compiled values -> discovery
 * streams, and beside them the CA, on one authenticated TLS listener.
 */
import { Server } from "@grpc/grpc-js";
import { setMaxListeners } from "node:events";
import { join } from "node:path";
import { Authority } from "../../ca/authority.js";
import { makePrivateDirectory, requirePrivate, writePrivateFile } from "../../ca/private-files.js";
import { addCertificateService } from "../../ca/service/certificate-service.js";
import { listenTls, type ListenAddress } from "../../ca/service/tls-listener.js";
import { addTrustService } from "../../ca/service/trust-service.js";
import { waypointOf } from "../../ca/callers.js";
import { Compiler } from "../../compile/compiler.js";
import { defaultCompileConfig } from "../../compile/config.js";
import { wantedKeySets } from "../../compile/waypoint/request-authentication.js";
import { messageOf } from "../../domain/error.js";
import { parseSpiffeId } from "../../domain/identity.js";
import { formatProblem, type Problem } from "../../domain/problem.js";
import type { SourceBatch, SourceEvent } from "../../domain/source-event.js";
import { every, systemClock } from "../../platform/clock.js";
import { createLogger } from "../../platform/logger.js";
import { loadNative } from "../../platform/native.js";
import { systemRandom } from "../../platform/random.js";
import { metricsPages, readyPages, servePages } from "../../node/admin/tcp.js";
import { serveUnixHttp, type HttpHandler } from "../../platform/unix-http-server.js";
import { CompiledSnapshot } from "../../xds/compiled-snapshot.js";
import { DiscoveryHub } from "../../xds/delta-stream.js";
import { DiscoveryMetrics } from "../../xds/discovery-metrics.js";
import { DiscoveryService, discoveryServerOptions } from "../../xds/discovery-service.js";
import { discoveryServiceDefinition } from "../../xds/wire.js";
import { ConfigHub } from "../../xds/waypoint/config-hub.js";
import { readVersion } from "../version.js";
import { adminHandler, controlHandler } from "./admin.js";
import { openCluster, type ClusterPlatform } from "./cluster.js";
import type { Ground } from "./ground.js";
import { openMachine } from "./machine.js";
import { openKeySets } from "./key-sets.js";
import { MeshPods } from "./mesh-pods.js";
import { caCounters, createRegistry, observe, observedStrangers } from "./metrics.js";
import type { ControlPlaneOptions } from "./options.js";
import {
  nodesSummary,
  policiesPage,
  problemsPage,
  servicesPage,
  workloadsPage,
  type FoundProblems,
} from "./pages.js";
import { StandingChecks } from "./standing-checks.js";

/** How long calls under way may go on when the process is asked to end. */
const shutdownGraceMs = 500;
/** Listeners, timers and servers that end with the process; streams and connections are not among them. */
const mostTasks = 64;
/** How often a rotation looks whether its phase is over. */
const rotationTickMs = 250;
/** A node may see its new pod before the control plane does; see CertificateServiceOptions. */
const podGraceMs = 2_000;

/** Runs until the signal. Throws what keeps it from starting, with what to do. */
export async function runControlPlane(options: ControlPlaneOptions, signal: AbortSignal): Promise<void> {
  // Ends with the caller's signal, and when a part that all depends on fails.
  const stop = new AbortController();
  setMaxListeners(mostTasks, stop.signal);
  const onAbort = (): void => stop.abort();
  signal.addEventListener("abort", onAbort, { once: true });
  if (signal.aborted) stop.abort();
  try {
    await run(options, stop);
  } finally {
    stop.abort();
    signal.removeEventListener("abort", onAbort);
  }
}

async function run(options: ControlPlaneOptions, stop: AbortController): Promise<void> {
  const version = readVersion();
  const clock = systemClock;
  const log = createLogger({
    level: options.logLevel,
    format: options.logFormat,
    clock,
    fields: { component: "control-plane" },
  });
  const native = loadNative();
  const startedAt = clock.now();

  makePrivateDirectory(options.runDir);
  requirePrivate(options.runDir);
  makePrivateDirectory(options.stateDir);

  const config = {
    ...defaultCompileConfig,
    trustDomain: options.trustDomain,
    clusterId: options.clusterId,
    network: options.network,
    rootNamespaces: [
      options.rootNamespace,
      ...defaultCompileConfig.rootNamespaces.filter((name) => name !== options.rootNamespace),
    ] as [string, ...string[]],
  };
  const compiler = new Compiler(config);
  const snapshot = new CompiledSnapshot();
  const hub = new DiscoveryHub(snapshot, () => clock.monotonic());
  const configs = new ConfigHub(() => clock.monotonic());
  const pods = new MeshPods(compiler.mesh, config.enrolment, options.trustDomain);
  const registry = createRegistry(version);
  const strangers = observedStrangers(registry);
  const ground = await openGround(
    options,
    { clock, random: systemRandom, log, registry, version },
    stop.signal,
  );
  const authenticator = strangers.knowing(ground.callers(compiler.mesh));
  let problems: readonly Problem[] = [];

  const authority = new Authority({
    trustDomain: options.trustDomain,
    keys: ground.keys,
    clock,
    log,
    certificateTtlMs: options.certificateTtlMs,
    rotation: { settleMs: options.rotationSettleMs, deadlineMs: options.rotationDeadlineMs },
    inUse: (entry) => pods.hosts(entry.node, parseSpiffeId(entry.identity)),
  });
  const publishRoots = (): void =>
    writePrivateFile(join(options.runDir, "root-cert.pem"), authority.rootsPem());
  publishRoots();
  authority.onChange(publishRoots);
  const checks = new StandingChecks({
    objects: () => compiler.mesh.objects(),
    checks: { ...config, standalone: ground.standalone },
    clock,
    log,
    signal: stop.signal,
  });
  observe(registry, authority, () => problems.length + checks.problems.length);
  const found = (): FoundProblems => ({ source: problems, checks: checks.problems });

  const discovery = new DiscoveryService({
    hub,
    configs,
    authenticate: async (call) => {
      const [authorization] = call.metadata.get("authorization");
      const caller = await authenticator.authenticate({
        authorization: authorization?.toString(),
        peer: call.getPeer(),
      });
      const waypoint = waypointOf(caller);
      return waypoint === undefined ? { node: caller } : { node: "", waypoint };
    },
    metrics: new DiscoveryMetrics(registry),
    clock,
    logger: log,
  });
  const server = new Server(discoveryServerOptions);
  server.addService(discoveryServiceDefinition, { ...discovery.implementation });
  addCertificateService(server, {
    authority,
    authenticator,
    pods,
    counters: caCounters(registry),
    audit: log.child({ scope: "audit" }),
    podGraceMs,
  });
  addTrustService(server, authority, authenticator, stop.signal);

  const apply = (events: readonly SourceEvent[]): void => {
    const change = compiler.apply(events);
    // Waypoints are told policies before the addresses, and routes after them (DiscoveryService).
    const announce = configs.applyChange(change);
    snapshot.applyChange(change);
    announce();
  };
  const keySets = openKeySets({
    clock,
    random: systemRandom,
    log,
    registry,
    environment: process.env,
    standalone: ground.standalone,
    onEvents: (events) => {
      apply(events);
      ground.changed({ events, problems }, compiler.mesh);
    },
    signal: stop.signal,
  });

  const onBatch = (batch: SourceBatch): void => {
    ground.expect(batch);
    apply(batch.events);
    const known = new Set(problems.map(formatProblem));
    problems = batch.problems;
    for (const problem of problems.map(formatProblem))
      if (!known.has(problem)) log.warn("configuration problem", { problem });
    ground.changed(batch, compiler.mesh);
    pods.changed();
    checks.changed();
    keySets.want(wantedKeySets(compiler.mesh, config));
  };
  const sourcing = ground.source.run(onBatch, stop.signal);
  sourcing.catch(() => stop.abort());

  const addresses: ListenAddress[] = [{ type: "unix", path: join(options.runDir, "control-xds.sock") }];
  if (options.listen) addresses.push({ type: "tcp", ...options.listen });
  const listening = await listenTls({
    server,
    authority,
    addresses,
    names: options.advertise,
    strangers,
    clock,
    log,
    signal: stop.signal,
    graceMs: shutdownGraceMs,
  });

  const waiting = (): string[] =>
    snapshot.ready ? [] : ["configuration", ...ground.waiting().map((kind) => `configuration: ${kind}`)];
  for (const [address, pages] of [
    [options.metricsAddress, metricsPages(() => registry.metrics())],
    [options.readyAddress, readyPages(waiting)],
  ] as const) {
    if (address !== undefined) await servePages(address, pages, stop.signal);
  }
  const adminOptions = {
    authority,
    registry,
    log,
    pages: {
      waiting,
      status: () => {
        const connected = new Set(discovery.streams.map(({ node }) => node));
        return {
          version,
          config: options.config,
          since: new Date(startedAt).toISOString(),
          ready: waiting().length === 0,
          trust_domain: options.trustDomain,
          cluster_id: options.clusterId,
          listen: listening.ports.map((port) => `${options.listen?.host ?? ""}:${port}`),
          objects: compiler.mesh.counts,
          nodes: nodesSummary(compiler).map((one) => ({ ...one, connected: connected.has(one.node) })),
          streams: discovery.streams.length,
          problems: problemsPage(compiler, found()).length,
          ca: authority.describe(),
        };
      },
      workloads: () => workloadsPage(compiler),
      services: () => servicesPage(compiler),
      policies: () => policiesPage(compiler, problems),
      problems: () => problemsPage(compiler, found()),
      streams: () => discovery.streams,
    },
  };
  const serve = (name: string, handler: HttpHandler): { readonly ended: Promise<void> } =>
    serveUnixHttp({
      native,
      clock,
      path: join(options.runDir, name),
      handler,
      onRefused: (peer) => log.warn("admin peer refused", { socket: name, uid: peer.uid, pid: peer.pid }),
      onError: (error) => log.error("admin request failed", { socket: name, error: messageOf(error) }),
      signal: stop.signal,
    });
  const admin = serve("control-admin.sock", adminHandler(adminOptions));
  const control = serve("control-control.sock", controlHandler(adminOptions));
  const beside = ground.run(authority, stop.signal);
  beside.catch(() => stop.abort());
  const ticking = every(clock, rotationTickMs, () => authority.tick(), {
    signal: stop.signal,
    onError: (error) => log.error("rotation failed", { error: messageOf(error) }),
  });
  log.info("control plane started", { version, run_dir: options.runDir, ports: listening.ports });

  try {
    await sourcing;
  } finally {
    log.info("control plane stopping");
    stop.abort();
    discovery.close();
    await Promise.all([listening.ended, admin.ended, control.ended, ticking, beside]);
    authority.close();
    log.info("control plane stopped");
  }
}

/** A directory's pods are this machine's; a cluster's are anywhere. */
function openGround(
  options: ControlPlaneOptions,
  platform: ClusterPlatform,
  signal: AbortSignal,
): Promise<Ground> | Ground {
  if (options.cluster === undefined) return openMachine(options, platform.clock, platform.log);
  const { clusterId, trustDomain, stateDir } = options;
  const ledgerPath = join(stateDir, "ca", "issued.jsonl");
  return openCluster({ ...options.cluster, clusterId, trustDomain, ledgerPath }, platform, signal);
}
