import { setMaxListeners } from "node:events";
import type { MeshKind } from "../../domain/objects.js";
import type { Problem } from "../../domain/problem.js";
import type { Source, SourceBatch, SourceEvent } from "../../domain/source-event.js";
import type { Cancel, Clock } from "../../platform/clock.js";
import type { KubeApi } from "../../platform/kube-api.js";
import type { Logger } from "../../platform/logger.js";
import type { Random } from "../../platform/random.js";
import { KindState } from "./kind-state.js";
import { ListWatch } from "./list-watch.js";
import type { KubeMetrics } from "./metrics.js";
import { collectionsOf, meshResources, type Collection } from "./resources.js";

export interface KubeSourceOptions {
  readonly api: KubeApi;
  /** Stands as the location of problems. */
  readonly cluster: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly metrics: KubeMetrics;
  /** Only these kinds; undefined: all that are understood. */
  readonly kinds?: readonly MeshKind[];
  /** Restricts a kind to some of its objects: `{ Pod: { fieldSelector: "spec.nodeName=n1" } }`. */
  readonly select?: Partial<Record<MeshKind, Readonly<Record<string, string>>>>;
}

/** For how long what comes together is gathered: a namespace and its pods, a service and its slices. */
const gatherMs = 10;

/**
 * A cluster as a source: every kind by list and watch, with the decoders, checks and rules of the directory's
 * (`sources/files`). The first batch is complete: it comes when each kind has been listed or is known not to be
 * installed. A kind that is installed later is told when it appears.
 */
export class KubeSource implements Source {
  readonly #collections: readonly Collection[];
  readonly #states: KindState[] = [];
  readonly #unsettled: Set<string>;
  #events: SourceEvent[] = [];
  #problemsChanged = true;
  #flush: Cancel | undefined;

  constructor(private readonly options: KubeSourceOptions) {
    const { kinds, select } = options;
    this.#collections = meshResources()
      .filter(({ kind }) => kinds === undefined || kinds.includes(kind))
      .flatMap((resource) => collectionsOf(resource, select?.[resource.kind]));
    this.#unsettled = new Set(this.#collections.map(({ name }) => name));
  }

  /** Kinds that have not been listed yet. */
  get waiting(): readonly string[] {
    return [...this.#unsettled].sort();
  }

  async run(onBatch: (batch: SourceBatch) => void, until: AbortSignal): Promise<void> {
    // Every kind's waits and watches end with it.
    const signal = AbortSignal.any([until]);
    setMaxListeners(0, signal);
    const { api, cluster, clock, random, log, metrics } = this.options;
    const gather = (): void => {
      if (this.#unsettled.size > 0) return;
      this.#flush ??= clock.schedule(
        gatherMs,
        () => {
          this.#flush = undefined;
          this.#tell(onBatch, signal);
        },
        { signal },
      );
    };
    await Promise.all(
      this.#collections.map(({ name, resource, paths, query }) => {
        const state = new KindState(resource, cluster, {
          told: (events) => {
            // A loop: a first list may be longer than a call's arguments.
            for (const event of events) this.#events.push(event);
            gather();
          },
          problemsChanged: () => {
            this.#problemsChanged = true;
            gather();
          },
          settled: () => {
            if (this.#unsettled.delete(name)) gather();
          },
        });
        this.#states.push(state);
        return new ListWatch({
          name,
          api,
          paths,
          query,
          mayBeAbsent: !resource.builtIn,
          clock,
          random,
          log,
          observer: metrics.observe(name, () => state.size),
        }).run(state, signal);
      }),
    );
    this.#flush?.();
  }

  #tell(onBatch: (batch: SourceBatch) => void, signal: AbortSignal): void {
    if (signal.aborted) return;
    const events = this.#events;
    this.#events = [];
    if (this.#problemsChanged) this.#problems = this.#allProblems();
    this.#problemsChanged = false;
    onBatch({ events, problems: this.#problems });
  }

  #problems: readonly Problem[] = [];

  #allProblems(): readonly Problem[] {
    return this.#states.flatMap((state) => [...state.problems].flat());
  }
}
