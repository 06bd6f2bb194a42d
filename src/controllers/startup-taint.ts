import { messageOf } from "../domain/error.js";
import type { Clock } from "../platform/clock.js";
import { hasStatus, type KubeApi } from "../platform/kube-api.js";
import type { Logger } from "../platform/logger.js";
import { backoffMs, type Random } from "../platform/random.js";
import { isMapping, type Mapping } from "../sources/decode/fields.js";
import { ListWatch, type CollectionObserver, type CollectionSink } from "../sources/kube/list-watch.js";

/** A node registers with it, so that no pod starts there before the agent captures (docs/kubernetes.md). */
export const startupTaint = "meltemi.io/agent-not-ready";

export interface StartupTaintOptions {
  readonly api: KubeApi;
  /** The mesh's own namespace. */
  readonly namespace: string;
  /** Label selector of the agents' pods there. */
  readonly agents: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly observe: (name: string, size: () => number) => CollectionObserver;
}

interface TaintedNode {
  readonly name: string;
  /** The taint as the node has it, and its place in the list; undefined: it has none. */
  readonly taint: { readonly index: number; readonly value: Mapping } | undefined;
}

interface Agent {
  readonly key: string;
  readonly node: string;
  readonly ready: boolean;
}

const firstRetryMs = 500;
const lastRetryMs = 60_000;

/**
 * Takes the startup taint off each node whose agent is ready. The control plane does it, so that no agent needs the
 * right to write nodes; of several replicas that try, one succeeds.
 */
export class StartupTaint {
  #nodes = new Map<string, TaintedNode>();
  #agents = new Map<string, Agent>();
  readonly #attempts = new Map<string, number>();
  readonly #removing = new Set<string>();
  #signal: AbortSignal | undefined;

  constructor(private readonly options: StartupTaintOptions) {}

  /** Runs until the signal. */
  async run(signal: AbortSignal): Promise<void> {
    this.#signal = signal;
    const { namespace, agents } = this.options;
    const byKey = <T>(
      read: (object: Mapping) => T,
      key: (one: T) => string,
      take: (all: Map<string, T>) => void,
      present: () => Map<string, T>,
    ): CollectionSink<T> => ({
      reduce: read,
      replaced: (items) => {
        take(new Map(items.map((one) => [key(one), one])));
        this.#checkAll();
      },
      applied: (one) => {
        present().set(key(one), one);
        this.#checkAll();
      },
      removed: (object) => void present().delete(key(read(object))),
      absent: () => undefined,
    });
    await Promise.all([
      this.#follow("Node", "/api/v1/nodes", {}, () => this.#nodes.size).run(
        byKey(
          readNode,
          ({ name }) => name,
          (all) => (this.#nodes = all),
          () => this.#nodes,
        ),
        signal,
      ),
      this.#follow(
        "agents' Pod",
        `/api/v1/namespaces/${namespace}/pods`,
        { labelSelector: agents },
        () => this.#agents.size,
      ).run(
        byKey(
          readAgent,
          (one) => one.key,
          (all) => (this.#agents = all),
          () => this.#agents,
        ),
        signal,
      ),
    ]);
  }

  #follow<T>(
    name: string,
    path: string,
    query: Readonly<Record<string, string>>,
    size: () => number,
  ): ListWatch<T> {
    const { api, clock, random, log, observe } = this.options;
    return new ListWatch<T>({
      name: `${name} (startup taint)`,
      api,
      paths: [{ version: "v1", path }],
      query,
      mayBeAbsent: false,
      clock,
      random,
      log,
      observer: observe(`${name} (startup taint)`, size),
    });
  }

  #checkAll(): void {
    const ready = new Set([...this.#agents.values()].filter((one) => one.ready).map(({ node }) => node));
    for (const [name, node] of this.#nodes) {
      if (node.taint === undefined) this.#attempts.delete(name);
      else if (ready.has(name) && !this.#removing.has(name)) void this.#remove(name, node.taint);
    }
  }

  async #remove(name: string, { index, value }: NonNullable<TaintedNode["taint"]>): Promise<void> {
    const { api, clock, random, log } = this.options;
    this.#removing.add(name);
    const path = `/spec/taints/${index}`;
    try {
      await api.call({
        method: "PATCH",
        path: `/api/v1/nodes/${name}`,
        contentType: "application/json-patch+json",
        // Others may have changed the list meanwhile: then nothing is done, and the watch tells.
        body: [
          { op: "test", path, value },
          { op: "remove", path },
        ],
        signal: this.#signal,
      });
      log.info("startup taint removed", { node: name });
      const node = this.#nodes.get(name);
      if (node !== undefined) this.#nodes.set(name, { ...node, taint: undefined });
    } catch (error) {
      const attempt = this.#attempts.get(name) ?? 0;
      this.#attempts.set(name, attempt + 1);
      if (!hasStatus(error, 409, 422))
        log.warn("startup taint not removed", { node: name, error: messageOf(error) });
      await clock
        .sleep(backoffMs(random, attempt, firstRetryMs, lastRetryMs), {
          signal: this.#signal,
          background: true,
        })
        .catch(() => undefined);
    } finally {
      this.#removing.delete(name);
    }
    if (this.#signal?.aborted === false) this.#checkAll();
  }
}

const child = (value: Mapping, key: string): Mapping => (isMapping(value[key]) ? value[key] : {});
const text = (value: unknown): string => (typeof value === "string" ? value : "");
const mappings = (value: unknown): Mapping[] =>
  Array.isArray(value) ? (value as unknown[]).filter(isMapping) : [];

function readNode(object: Mapping): TaintedNode {
  const taints = mappings(child(object, "spec")["taints"]);
  const index = taints.findIndex(({ key }) => key === startupTaint);
  const value = taints[index];
  return {
    name: text(child(object, "metadata")["name"]),
    taint: value === undefined ? undefined : { index, value },
  };
}

function readAgent(object: Mapping): Agent {
  const metadata = child(object, "metadata");
  const conditions = mappings(child(object, "status")["conditions"]);
  return {
    key: text(metadata["name"]),
    node: text(child(object, "spec")["nodeName"]),
    ready:
      metadata["deletionTimestamp"] === undefined &&
      conditions.some(({ type, status }) => type === "Ready" && status === "True"),
  };
}
