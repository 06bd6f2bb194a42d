import type { Registry } from "prom-client";
import type { Clock } from "../../platform/clock.js";
import type { Files } from "../../platform/files.js";
import type { Logger } from "../../platform/logger.js";
import type { Random } from "../../platform/random.js";
import { callUnixJson } from "../../platform/unix-http-client.js";
import { DiscoveryHub } from "../../xds/delta-stream.js";
import { DiscoveryMetrics } from "../../xds/discovery-metrics.js";
import { DiscoveryService } from "../../xds/discovery-service.js";
import { agentLimits as limits, type agentPaths, type AgentOptions } from "../agent-options.js";
import { CertificateRelay } from "./certificate-relay.js";
import { DiscoveryRelay } from "./discovery-relay.js";
import { LastGoodFile } from "./last-good.js";
import { serveRelay, type RelayListenOptions } from "./server.js";
import { TrustWatch } from "./trust-watch.js";
import { connectUpstream, parseControlPlane } from "./upstream.js";

export interface RelayPlatform {
  readonly files: Files;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
}

export interface RelaySurroundings {
  readonly listen: RelayListenOptions;
  readonly registry: Registry;
  readonly hosts: (namespace: string, serviceAccount: string) => boolean;
  readonly onCertificate: (result: "issued" | "refused" | "failed") => void;
}

export interface Relay {
  readonly discovery: DiscoveryRelay;
  /** Serves until the signal aborts. */
  run(signal: AbortSignal): Promise<void>;
  dataPlaneStarted(): void;
}

/** Discovery, certificates and the trust bundle between the control plane and the data plane. */
export function assembleRelay(
  options: AgentOptions,
  paths: ReturnType<typeof agentPaths>,
  platform: RelayPlatform,
  surroundings: RelaySurroundings,
): Relay {
  const { files, clock, random, log } = platform;
  const controlPlane = {
    address: options.controlPlane,
    rootFile: options.controlPlaneRoot,
    tokenFile: options.tokenFile,
    clusterId: options.clusterId,
  };
  // A wrong address is said at once, not at every attempt to connect.
  parseControlPlane(options.controlPlane);
  const upstream = () => connectUpstream(files, controlPlane);
  const discovery = new DiscoveryRelay({
    node: options.node,
    clusterId: options.clusterId,
    address: options.controlPlane,
    upstream,
    lastGood: new LastGoodFile(files, clock, paths.lastGood),
    clock,
    random,
    log,
    upstreamGraceMs: limits.upstreamGraceMs,
    lingerMs: limits.lingerMs,
    saveDelayMs: limits.saveDelayMs,
  });
  const service = new DiscoveryService({
    hub: new DiscoveryHub(discovery.cache, () => clock.monotonic()),
    // The socket has admitted only the owner's processes, and all of them are this node's.
    authenticate: () => ({ node: options.node }),
    metrics: new DiscoveryMetrics(surroundings.registry),
    clock,
    logger: log,
    onAnswer: (response, answer) => discovery.answered(response, answer),
  });
  const certificates = new CertificateRelay({
    trustDomain: options.trustDomain,
    upstream,
    hosts: surroundings.hosts,
    deadlineMs: limits.certificateDeadlineMs,
    clock,
    log,
    onResult: surroundings.onCertificate,
  });
  const trust = new TrustWatch({
    upstream,
    renew: async (notBeforeUntil) => {
      await callUnixJson({
        socketPath: paths.proxyControl,
        method: "POST",
        path: "/certificates/renew",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ not_before_until: notBeforeUntil.toISOString() }),
      });
    },
    clock,
    random,
    log,
  });
  return {
    discovery,
    run: async (signal) => {
      const served = serveRelay(service, certificates, surroundings.listen);
      await Promise.all([discovery.run(signal), trust.run(signal), served.ended]);
    },
    dataPlaneStarted: () => trust.dataPlaneStarted(),
  };
}
