import type { Clock } from "../../platform/clock.js";
import type { Logger } from "../../platform/logger.js";
import { callUnixHttp, callUnixJson } from "../../platform/unix-http-client.js";
import { agentPaths, type AgentOptions } from "../agent-options.js";
import type { Captures } from "../capture/captures.js";
import type { NodePods } from "../enrol/node-pods.js";
import { mergeExpositions } from "../metrics/merge.js";
import { NodeMetrics } from "../metrics/node-metrics.js";
import type { DiscoveryRelay } from "../relay/discovery-relay.js";
import type { DataPlaneSupervisor, DataPlaneStatus } from "../supervise/data-plane.js";
import type { ZdsServer } from "../zds/server.js";
import type { AdminParts } from "./handlers.js";
import { nodeStatus } from "./node-status.js";

export interface Watched {
  readonly pods: NodePods;
  readonly captures: Captures;
  readonly zds: ZdsServer;
  readonly relay: DiscoveryRelay;
  readonly supervisor: DataPlaneSupervisor | undefined;
}

const proxyTimeoutMs = 2_000;

/** What can be seen of the agent from outside: readiness, status and metrics of all its parts. */
export class AgentMonitor {
  readonly paths: ReturnType<typeof agentPaths>;
  readonly metrics: NodeMetrics;
  readonly adminParts: AdminParts;
  #configured = false;
  #watched: Watched | undefined;

  constructor(
    private readonly options: AgentOptions,
    private readonly platform: { readonly clock: Clock; readonly log: Logger; readonly version: string },
  ) {
    this.paths = agentPaths(options);
    this.metrics = new NodeMetrics({
      podsByState: () => this.#podsByState(),
      capture: () => {
        const { mode, guard } = this.#watched?.captures.choice ?? {};
        return mode === undefined || guard === undefined ? undefined : { mode, guard };
      },
      dataPlanes: () => this.#watched?.zds.streams.length ?? 0,
      controlPlaneConnected: () => this.#watched?.relay.status.connected ?? false,
      lastGoodAgeSeconds: () => {
        const savedAtMs = this.#watched?.relay.lastGoodMs;
        return savedAtMs === undefined ? undefined : (platform.clock.now() - savedAtMs) / 1000;
      },
    });
    this.adminParts = {
      log: platform.log,
      waiting: () => this.waiting(),
      status: () => this.status(),
      metrics: () => this.exposition(),
      proxyAdminSocket: this.paths.proxyAdmin,
      proxyControlSocket: this.paths.proxyControl,
    };
  }

  /** The parts, once they exist. */
  watch(watched: Watched): void {
    this.#watched = watched;
  }

  /** The source has told its first state. */
  configured(): void {
    this.#configured = true;
  }

  get isConfigured(): boolean {
    return this.#configured;
  }

  /** What the node still waits for before it serves all its pods; empty when it is ready. */
  waiting(): readonly string[] {
    const waiting: string[] = [];
    if (!this.#configured) waiting.push("configuration");
    const live = this.#watched?.zds.streams.some((stream) => stream.live) ?? false;
    if (!live) waiting.push("data plane");
    else if (this.#watched?.supervisor !== undefined && !this.#watched.supervisor.status.ready)
      waiting.push("data plane's discovery");
    for (const { state, namespace, name } of this.#watched?.pods.status ?? []) {
      if (state === "pending") waiting.push(`pod ${namespace}/${name}`);
    }
    return waiting;
  }

  async status(): Promise<unknown> {
    const { clock, version } = this.platform;
    const watched = this.#watched;
    return nodeStatus({
      node: this.options.node,
      version,
      nowMs: clock.now(),
      pods: watched?.pods.status ?? [],
      capture: watched?.captures.choice,
      controlPlane: watched?.relay.status ?? {
        connected: false,
        address: this.options.controlPlane,
        sinceMs: clock.now(),
        lastError: undefined,
      },
      dataPlane: this.#dataPlane(),
      certificates: await this.#certificates(),
      lastGoodMs: watched?.relay.lastGoodMs,
    });
  }

  /** The agent's metrics and its data plane's, one page. */
  async exposition(): Promise<string> {
    const own = async (): Promise<string> => {
      await this.#watched?.pods.readDrops();
      return this.metrics.registry.metrics();
    };
    const [ours, proxy] = await Promise.all([own(), this.#proxyMetrics()]);
    return mergeExpositions([ours, proxy]);
  }

  #dataPlane(): DataPlaneStatus {
    const { supervisor, zds } = this.#watched ?? {};
    if (supervisor !== undefined) return supervisor.status;
    const stream = zds?.streams.at(-1);
    return {
      pid: stream?.pid,
      ready: stream?.live ?? false,
      restarts: 0,
      sinceMs: undefined,
      lastExit: undefined,
    };
  }

  async #proxyMetrics(): Promise<string> {
    try {
      const { status, body } = await callUnixHttp({
        socketPath: this.paths.proxyAdmin,
        path: "/metrics",
        timeoutMs: proxyTimeoutMs,
      });
      return status === 200 ? body.toString("utf8") : "";
    } catch {
      // Its absence shows in meltemi_node_data_planes and the missing families.
      return "";
    }
  }

  async #certificates(): Promise<number | undefined> {
    try {
      const certificates = await callUnixJson({
        socketPath: this.paths.proxyAdmin,
        path: "/certificates",
        timeoutMs: proxyTimeoutMs,
      });
      if (!Array.isArray(certificates)) return undefined;
      return certificates.filter((one: unknown) => (one as { state?: unknown } | null)?.state === "valid")
        .length;
    } catch {
      return undefined;
    }
  }

  #podsByState(): ReadonlyMap<string, number> {
    const counts = new Map<string, number>();
    for (const { state } of this.#watched?.pods.status ?? []) counts.set(state, (counts.get(state) ?? 0) + 1);
    return counts;
  }
}
