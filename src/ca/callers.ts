/**
 * Who may call the control plane: node agents and waypoints, each by a token of its own. A caller has one
 * name: a node's is its own, a waypoint's is `waypoint:NAMESPACE/NAME`, which no node can have.
 */
import { MeltemiError } from "../domain/error.js";
import type { CallerCredentials, NodeAuthenticator } from "./ports.js";
import { NodeTokens } from "./tokens.js";

const prefix = "waypoint:";

export const waypointCaller = (namespace: string, name: string): string => `${prefix}${namespace}/${name}`;

/** `NAMESPACE/NAME` of the waypoint that a caller is; undefined for a node. */
export function waypointOf(caller: string): string | undefined {
  return caller.startsWith(prefix) ? caller.slice(prefix.length) : undefined;
}

/** Tokens of waypoints, in files as those of nodes: `NAMESPACE.NAME`. A namespace has no dot in its name. */
export class WaypointTokens implements NodeAuthenticator {
  readonly #tokens: NodeTokens;

  constructor(directory: string) {
    this.#tokens = new NodeTokens(directory);
  }

  /** The file with the waypoint's token; made when there is none. */
  ensure(namespace: string, name: string): string {
    return this.#tokens.ensure(`${namespace}.${name}`);
  }

  /** The waypoint's token is no longer valid. */
  revoke(namespace: string, name: string): void {
    this.#tokens.revoke(`${namespace}.${name}`);
  }

  async authenticate(credentials: CallerCredentials): Promise<string> {
    const file = await this.#tokens.authenticate(credentials);
    const dot = file.indexOf(".");
    return waypointCaller(file.slice(0, dot), file.slice(dot + 1));
  }
}

/** Nodes, and else waypoints. */
export class Callers implements NodeAuthenticator {
  constructor(
    private readonly nodes: NodeAuthenticator,
    private readonly waypoints: NodeAuthenticator,
  ) {}

  async authenticate(credentials: CallerCredentials): Promise<string> {
    const known = await Promise.allSettled([
      this.nodes.authenticate(credentials),
      this.waypoints.authenticate(credentials),
    ]);
    for (const one of known) if (one.status === "fulfilled") return one.value;
    const malformed = known.find((one) => one.status === "rejected")?.reason as unknown;
    throw malformed instanceof MeltemiError && !malformed.message.includes("belongs to no node")
      ? malformed
      : new MeltemiError("unauthenticated", "the token belongs to no node and no waypoint");
  }
}
