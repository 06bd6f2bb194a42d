/** The waypoints of one standalone: a process for every Gateway of a waypoint class that names its network namespace. */
import { join } from "node:path";
import { WaypointTokens } from "../../ca/callers.js";
import { messageOf } from "../../domain/error.js";
import type { SourceBatch } from "../../domain/source-event.js";
import { isWaypoint } from "../../domain/waypoint-class.js";
import type { Files } from "../../platform/files.js";
import type { Logger } from "../../platform/logger.js";
import { Child, type ChildParts } from "./child.js";
import { netnsPath } from "./desired-nodes.js";
import type { StandaloneOptions } from "./options.js";

export interface DesiredWaypoint {
  readonly namespace: string;
  readonly name: string;
  /** The network namespace that it runs in, as a path. */
  readonly netns: string;
}

/** Which waypoints there should be. */
export class DesiredWaypoints {
  readonly #waypoints = new Map<string, DesiredWaypoint>();

  apply(batch: SourceBatch): void {
    for (const event of batch.events) {
      const { kind } = event.type === "apply" ? event.object : event;
      if (kind !== "Gateway") continue;
      const { namespace, name } = event.type === "apply" ? event.object.meta : event;
      const key = `${namespace}/${name}`;
      this.#waypoints.delete(key);
      if (event.type === "remove" || event.object.kind !== "Gateway") continue;
      const { netns } = event.object;
      if (isWaypoint(event.object) && netns !== undefined)
        this.#waypoints.set(key, { namespace, name, netns: netnsPath(netns) });
    }
  }

  get all(): readonly DesiredWaypoint[] {
    return [...this.#waypoints.values()];
  }
}

/** A waypoint drains its connections before it ends. */
const stopTimeoutMs = 15_000;

export class Waypoints {
  readonly #tokens: WaypointTokens;
  readonly #children = new Map<string, Child>();
  #wanted: readonly DesiredWaypoint[] = [];
  #reconciling: Promise<void> = Promise.resolve();

  constructor(
    private readonly options: StandaloneOptions,
    private readonly parts: ChildParts & { readonly files: Files; readonly log: Logger },
  ) {
    this.#tokens = new WaypointTokens(join(options.stateDir, "waypoint-tokens"));
  }

  /** Starts and ends waypoints until these are the ones. One change after the other; the latest wish counts. */
  reconcile(wanted: readonly DesiredWaypoint[]): Promise<void> {
    this.#wanted = wanted;
    const next = this.#reconciling.then(() => this.#step());
    this.#reconciling = next.catch((error: unknown) =>
      this.parts.log.error("waypoints not as wanted", { error: messageOf(error) }),
    );
    return this.#reconciling;
  }

  /** Ends all of them in order. */
  end(): Promise<void> {
    return this.reconcile([]);
  }

  async #step(): Promise<void> {
    const wanted = new Map(this.#wanted.map((one) => [`${one.namespace}.${one.name}`, one]));
    const leaving = [...this.#children].filter(([key, child]) => wanted.get(key)?.netns !== child.netns);
    await Promise.all(
      leaving.map(async ([key, child]) => {
        await child.stop();
        this.#children.delete(key);
        await this.parts.files.remove(this.#runDir(key));
      }),
    );
    for (const [key, one] of wanted)
      if (!this.#children.has(key)) this.#children.set(key, await this.#start(key, one));
  }

  #runDir(key: string): string {
    return join(this.options.runDir, "waypoints", key);
  }

  async #start(key: string, { namespace, name, netns }: DesiredWaypoint): Promise<Child> {
    const { stateDir, path, proxy, controlPlane } = this.options;
    const runDir = this.#runDir(key);
    await this.parts.files.makeDirectory(runDir, 0o700);
    const token = this.#tokens.ensure(namespace, name);
    const server = `unix-tls:${join(controlPlane.runDir, "control-xds.sock")}`;
    const root = join(controlPlane.runDir, "root-cert.pem");
    const log = join(stateDir, "logs", `waypoint-${key}.log`);
    const args = [
      ...[`--net=${netns}`, "--", proxy, "waypoint"],
      ...["--namespace", namespace, "--name", name, "--run-dir", runDir],
      ...["--xds", server, "--ca", server, "--xds-root", root, "--ca-root", root, "--auth-token", token],
      ...["--trust-domain", controlPlane.trustDomain, "--cluster-id", controlPlane.clusterId],
      ...["--network", controlPlane.network, "--metrics-address", "0.0.0.0:15020"],
      ...["--log-level", controlPlane.logLevel === "trace" ? "debug" : controlPlane.logLevel],
      ...["--log-format", "json"],
    ];
    return new Child(this.parts, {
      name: `waypoint-${key}`,
      netns,
      stopTimeoutMs,
      spawn: { command: "nsenter", args, env: { PATH: path }, stdoutFile: log, stderrFile: log },
    });
  }
}
