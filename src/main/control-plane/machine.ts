/** The control plane of one machine: a directory of YAML, tokens and keys in files. */
import { join } from "node:path";
import { Callers, WaypointTokens } from "../../ca/callers.js";
import { GivenKeys } from "../../ca/key-source.js";
import { KeyStore } from "../../ca/key-store.js";
import { NodeTokens } from "../../ca/tokens.js";
import { messageOf } from "../../domain/error.js";
import type { SourceBatch } from "../../domain/source-event.js";
import { isWaypoint } from "../../domain/waypoint-class.js";
import type { Clock } from "../../platform/clock.js";
import { systemFiles } from "../../platform/files.js";
import type { Logger } from "../../platform/logger.js";
import { FileSource } from "../../sources/files/file-source.js";
import type { Ground } from "./ground.js";
import type { ControlPlaneOptions } from "./options.js";

export function openMachine(
  options: Pick<ControlPlaneOptions, "caDir" | "config" | "stateDir">,
  clock: Clock,
  log: Logger,
): Ground {
  const { caDir, config, stateDir } = options;
  const tokens = new NodeTokens(join(stateDir, "tokens"));
  const waypointTokens = new WaypointTokens(join(stateDir, "waypoint-tokens"));
  const store = new KeyStore(join(stateDir, "ca"));
  return {
    source: new FileSource({
      directory: config,
      clock,
      logger: log,
      lastGood: { directory: join(stateDir, "last-good"), files: systemFiles },
    }),
    keys: caDir === undefined ? store : new GivenKeys(caDir, store),
    standalone: true,
    callers: () => new Callers(tokens, waypointTokens),
    expect: (batch) => ensureTokens(tokens, waypointTokens, batch, log),
    changed: () => undefined,
    waiting: () => [],
    run: () => Promise.resolve(),
  };
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
