/** Which node agents there should be: one per node that a pod names. */
import type { Logger } from "../../platform/logger.js";
import type { SourceBatch } from "../../domain/source-event.js";

export interface DesiredNode {
  readonly name: string;
  /** The network namespace that plays the node; undefined: this process's own. */
  readonly netns: string | undefined;
}

const namePattern = /^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$/;

const isPossible = (name: string, longest: number): boolean =>
  namePattern.test(name) && name.length <= longest;

/** A name as in `ip netns` is a file below /run/netns. */
export const netnsPath = (netns: string): string => (netns.startsWith("/") ? netns : `/run/netns/${netns}`);

export class DesiredNodes {
  readonly #podNodes = new Map<string, string>();
  readonly #netns = new Map<string, string>();
  readonly #told = new Set<string>();

  apply(batch: SourceBatch): void {
    for (const event of batch.events) {
      const { kind } = event.type === "apply" ? event.object : event;
      const { namespace, name } = event.type === "apply" ? event.object.meta : event;
      const key = `${namespace}/${name}`;
      if (kind === "Pod") this.#podNodes.delete(key);
      if (kind === "Node") this.#netns.delete(name);
      if (event.type === "remove") continue;
      const { object } = event;
      if (object.kind === "Pod" && object.nodeName !== undefined) this.#podNodes.set(key, object.nodeName);
      if (object.kind === "Node" && object.netns !== undefined)
        this.#netns.set(name, netnsPath(object.netns));
    }
  }

  /** By name. A name that cannot be a directory's, or is longer than `longest`, is told once and left out. */
  nodes(longest: number, log: Logger): DesiredNode[] {
    const names = [...new Set(this.#podNodes.values())].sort();
    for (const name of names) {
      if (isPossible(name, longest) || this.#told.has(name)) continue;
      this.#told.add(name);
      log.error("node has no agent: its name is too long or not a DNS name", { node: name, longest });
    }
    return names
      .filter((name) => isPossible(name, longest))
      .map((name) => ({ name, netns: this.#netns.get(name) }));
  }
}
