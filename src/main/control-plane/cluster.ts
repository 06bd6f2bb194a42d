/** What the control plane is made of on a cluster, in place of a directory, its tokens and its key files. */
import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import type { Registry } from "prom-client";
import { SecretKeys } from "../../ca/secret-keys.js";
import { ServiceAccountCallers } from "../../ca/token-review.js";
import { RootPublisher } from "../../controllers/root-publisher.js";
import { StartupTaint } from "../../controllers/startup-taint.js";
import { MeltemiError, messageOf } from "../../domain/error.js";
import { isWaypoint } from "../../domain/waypoint-class.js";
import { every, type Clock } from "../../platform/clock.js";
import type { Logger } from "../../platform/logger.js";
import { backoffMs, jitter, type Random } from "../../platform/random.js";
import { openKubeApi } from "../../sources/kube/http-api.js";
import { KubeSource } from "../../sources/kube/kube-source.js";
import { KubeMetrics } from "../../sources/kube/metrics.js";
import type { Ground } from "./ground.js";

export interface ClusterOptions {
  /** Undefined: the pod's own service account. */
  readonly kubeconfig: string | undefined;
  /** The mesh's own namespace: the CA's keys, and the agents' pods. */
  readonly namespace: string;
  /** Service accounts of node agents, `NAMESPACE/NAME`. */
  readonly nodeAccounts: readonly string[];
}

export interface ClusterPlatform {
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly registry: Registry;
  readonly version: string;
}

/** How often the CA's Secrets are looked at. */
const keysIntervalMs = 30_000;
const firstRetryMs = 500;
const lastRetryMs = 15_000;
/** Which of the mesh namespace's pods are agents (manifests/). */
export const agentSelector = "app.kubernetes.io/name=meltemi,app.kubernetes.io/component=node";

/** @throws MeltemiError naming what is wrong with the CA's Secrets; an API server that does not answer is waited for */
export async function openCluster(
  options: ClusterOptions & {
    readonly clusterId: string;
    readonly trustDomain: string;
    readonly ledgerPath: string;
  },
  platform: ClusterPlatform,
  signal: AbortSignal,
): Promise<Ground> {
  const { clock, random, log, registry } = platform;
  const { namespace, trustDomain, ledgerPath } = options;
  const api = await openKubeApi(options.kubeconfig, platform, "control-plane");
  const metrics = new KubeMetrics(registry, clock);
  mkdirSync(dirname(ledgerPath), { recursive: true, mode: 0o700 });
  const keys = await untilAnswered(
    () => SecretKeys.open({ api, namespace, trustDomain, clock, log, ledgerPath }),
    platform,
    signal,
  );
  const common = { api, clock, random, log };
  const observe: KubeMetrics["observe"] = (name, size) => metrics.observe(name, size);
  let rootsPem = (): string => "";
  const publisher = new RootPublisher({ ...common, observe, roots: () => rootsPem() });
  const taint = new StartupTaint({ ...common, observe, namespace, agents: agentSelector });
  const source = new KubeSource({ ...common, cluster: options.clusterId, metrics });
  return {
    source,
    keys,
    standalone: false,
    expect: () => undefined,
    waiting: () => source.waiting,
    callers: (mesh) =>
      new ServiceAccountCallers({
        api,
        clock,
        nodeAccounts: new Set(options.nodeAccounts),
        isWaypoint: (gatewayNamespace, account) => {
          const gateway = mesh.gateways.get(gatewayNamespace, account);
          return gateway !== undefined && isWaypoint(gateway);
        },
        nodeOfPod: (podNamespace, name, uid) => {
          const pod = mesh.pods.get(podNamespace, name);
          return pod?.meta.uid === uid ? pod.nodeName : undefined;
        },
      }),
    changed: (batch, mesh) => {
      const concerned = batch.events.some((event) =>
        event.type === "apply" ? event.object.kind === "Namespace" : event.kind === "Namespace",
      );
      if (concerned) publisher.namespaces([...mesh.namespaces.all()].map(({ meta }) => meta.name));
    },
    run: async (authority, until) => {
      rootsPem = () => authority.rootsPem();
      const stopListening = authority.onChange(() => publisher.rootsChanged());
      const following = every(
        clock,
        jitter(random, keysIntervalMs, 0.2),
        async () => {
          if (await keys.refresh()) authority.reload();
        },
        {
          signal: until,
          background: true,
          onError: (error) => log.error("keys of the ca not read", { error: messageOf(error) }),
        },
      );
      await Promise.all([publisher.run(until), taint.run(until), following]);
      stopListening();
    },
  };
}

async function untilAnswered<T>(
  attempt: () => Promise<T>,
  { clock, random, log }: ClusterPlatform,
  signal: AbortSignal,
): Promise<T> {
  for (let attempts = 0; ; attempts++) {
    try {
      return await attempt();
    } catch (error) {
      const answered = error instanceof MeltemiError && ["bad_input", "not_found"].includes(error.code);
      if (answered || signal.aborted) throw error;
      log.warn("keys of the ca not read", { error: messageOf(error) });
      await clock.sleep(backoffMs(random, attempts, firstRetryMs, lastRetryMs), { signal });
    }
  }
}
