import type { PodStatus } from "../enrol/node-pods.js";
import type { ControlPlaneStatus } from "../relay/discovery-relay.js";
import type { DataPlaneStatus } from "../supervise/data-plane.js";

export interface NodeStatusParts {
  readonly node: string;
  readonly version: string;
  readonly nowMs: number;
  readonly pods: readonly PodStatus[];
  readonly controlPlane: ControlPlaneStatus;
  readonly dataPlane: DataPlaneStatus;
  /** Valid certificates that the data plane holds; undefined where it cannot be asked. */
  readonly certificates: number | undefined;
  readonly lastGoodMs: number | undefined;
}

const time = (ms: number | undefined): string | undefined =>
  ms === undefined ? undefined : new Date(ms).toISOString();

/** `GET /status` of docs/node-interfaces.md. */
export function nodeStatus(parts: NodeStatusParts): unknown {
  const { node, version, nowMs, pods, controlPlane, dataPlane, certificates, lastGoodMs } = parts;
  return {
    node,
    version,
    pods: pods.map(({ uid, namespace, name, ip, serviceAccount, state, reason, netns, mode }) => ({
      uid,
      namespace,
      name,
      ip,
      service_account: serviceAccount,
      state,
      ...(reason === undefined ? {} : { reason }),
      netns,
      mode,
    })),
    control_plane: {
      connected: controlPlane.connected,
      address: controlPlane.address,
      since: time(controlPlane.sinceMs),
      last_error: controlPlane.lastError,
    },
    data_plane: {
      pid: dataPlane.pid,
      ready: dataPlane.ready,
      restarts: dataPlane.restarts,
      since: time(dataPlane.sinceMs),
      last_exit: dataPlane.lastExit,
    },
    certificates,
    last_good: {
      loaded: lastGoodMs !== undefined,
      ...(lastGoodMs === undefined ? {} : { age_s: Math.round((nowMs - lastGoodMs) / 1000) }),
    },
  };
}
