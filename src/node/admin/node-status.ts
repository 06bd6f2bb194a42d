import type { Choice } from "../capture/support.js";
import type { PodStatus } from "../enrol/node-pods.js";
import type { ControlPlaneStatus } from "../relay/discovery-relay.js";
import type { DataPlaneStatus } from "../supervise/data-plane.js";

export interface NodeStatusParts {
  readonly node: string;
  readonly version: string;
  readonly nowMs: number;
  readonly pods: readonly PodStatus[];
  /** Of new pods, and why; undefined until it is chosen. */
  readonly capture: Choice | undefined;
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
  const { node, version, nowMs, pods, capture, controlPlane, dataPlane, certificates, lastGoodMs } = parts;
  return {
    node,
    version,
    pods: pods.map(({ uid, namespace, name, ip, serviceAccount, state, reason, netns, mode, guard }) => ({
      uid,
      namespace,
      name,
      ip,
      service_account: serviceAccount,
      state,
      ...(reason === undefined ? {} : { reason }),
      netns,
      mode,
      guard,
    })),
    ...(capture === undefined
      ? {}
      : { capture: { mode: capture.mode, guard: capture.guard, reason: capture.reason } }),
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
