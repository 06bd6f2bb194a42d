/**
 * The control plane as one process: a directory of YAML -> model -> compiled values -> discovery
 * streams, and beside them the CA, on one authenticated TLS listener.
 */
import { Server } from "@grpc/grpc-js";
import { setMaxListeners } from "node:events";
import { join } from "node:path";
import { Authority } from "../../ca/authority.js";
import { GivenKeys } from "../../ca/key-source.js";
import { KeyStore } from "../../ca/key-store.js";
import { makePrivateDirectory, requirePrivate, writePrivateFile } from "../../ca/private-files.js";
import { addCertificateService } from "../../ca/service/certificate-service.js";
import { listenTls, type ListenAddress } from "../../ca/service/tls-listener.js";
import { addTrustService } from "../../ca/service/trust-service.js";
import { Callers, waypointOf, WaypointTokens } from "../../ca/callers.js";
import { NodeTokens } from "../../ca/tokens.js";
import { Compiler } from "../../compile/compiler.js";
import { defaultCompileConfig } from "../../compile/config.js";
import { messageOf } from "../../domain/error.js";
import { parseSpiffeId } from "../../domain/identity.js";
import { formatProblem, type Problem } from "../../domain/problem.js";
import { isWaypoint } from "../../domain/waypoint-class.js";
import type { SourceBatch } from "../../domain/source-event.js";
import { every, systemClock } from "../../platform/clock.js";
import { systemFiles } from "../../platform/files.js";
import { createLogger, type Logger } from "../../platform/logger.js";
import { loadNative } from "../../platform/native.js";
import { serveUnixHttp, type HttpHandler } from "../../platform/unix-http-server.js";
import { FileSource } from "../../sources/files/file-source.js";
import { CompiledSnapshot } from "../../xds/compiled-snapshot.js";
import { DiscoveryHub } from "../../xds/delta-stream.js";
import { DiscoveryMetrics } from "../../xds/discovery-metrics.js";
import { DiscoveryService, discoveryServerOptions } from "../../xds/discovery-service.js";
import { discoveryServiceDefinition } from "../../xds/wire.js";
import { ConfigHub } from "../../xds/waypoint/config-hub.js";
import { readVersion } from "../version.js";
import { adminHandler, controlHandler } from "./admin.js";
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
const mostTasks = 24;
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
  const tokens = new NodeTokens(join(options.stateDir, "tokens"));
  const registry = createRegistry(version);
  const strangers = observedStrangers(registry);
  const waypointTokens = new WaypointTokens(join(options.stateDir, "waypoint-tokens"));
  const authenticator = strangers.knowing(new Callers(tokens, waypointTokens));
  let problems: readonly Problem[] = [];

  const store = new KeyStore(join(options.stateDir, "ca"));
  const authority = new Authority({
    trustDomain: options.trustDomain,
    keys: options.caDir === undefined ? store : new GivenKeys(options.caDir, store),
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
    // A directory's pods are this machine's, in network namespaces that they name.
    checks: { ...config, standalone: true },
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

  const onBatch = (batch: SourceBatch): void => {
    ensureTokens(tokens, waypointTokens, batch, log);
    const change = compiler.apply(batch.events);
    // Waypoints are told policies before the addresses, and routes after them (DiscoveryService).
    const announce = configs.applyChange(change);
    snapshot.applyChange(change);
    announce();
    const known = new Set(problems.map(formatProblem));
    problems = batch.problems;
    for (const problem of problems.map(formatProblem))
      if (!known.has(problem)) log.warn("configuration problem", { problem });
    pods.changed();
    checks.changed();
  };
  const source = new FileSource({
    directory: options.config,
    clock,
    logger: log,
    lastGood: { directory: join(options.stateDir, "last-good"), files: systemFiles },
  });
  const sourcing = source.run(onBatch, stop.signal);
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

  const waiting = (): string[] => (snapshot.ready ? [] : ["configuration"]);
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
    await Promise.all([listening.ended, admin.ended, control.ended, ticking]);
    authority.close();
    log.info("control plane stopped");
  }
}

/** Every node that a pod names, and every waypoint, has a token from then on. */
function ensureTokens(tokens: NodeTokens, waypoints: WaypointTokens, batch: SourceBatch, log: Logger): void {
  for (const event of batch.events) {
    if (event.type !== "apply") continue;
    const { object } = event;
    try {
      if (object.kind === "Pod" && object.nodeName !== undefined) tokens.ensure(object.nodeName);
      if (object.kind === "Gateway" && isWaypoint(object))
        waypoints.ensure(object.meta.namespace, object.meta.name);
    } catch (error) {
      log.error("no token made", { object: `${object.kind} ${object.meta.name}`, error: messageOf(error) });
    }
  }
}
