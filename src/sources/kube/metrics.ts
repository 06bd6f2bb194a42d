import { Counter, Gauge, type Registry } from "prom-client";
import type { Clock } from "../../platform/clock.js";
import type { CollectionObserver } from "./list-watch.js";

/** What a process knows of its API server, by kind. */
export class KubeMetrics {
  readonly #heardMs = new Map<string, number>();
  readonly #sizes = new Map<string, () => number>();
  readonly #lists: Counter<"kind" | "result">;
  readonly #watches: Counter<"kind" | "result">;

  constructor(
    registry: Registry,
    private readonly clock: Pick<Clock, "monotonic">,
  ) {
    const registers = [registry];
    const [heardMs, sizes] = [this.#heardMs, this.#sizes];
    new Gauge({
      name: "meltemi_kube_lag_seconds",
      help: "Time since the API server last said something of this kind. It sends a bookmark about every minute.",
      labelNames: ["kind"],
      registers,
      collect() {
        this.reset();
        for (const [kind, ms] of heardMs) this.set({ kind }, (clock.monotonic() - ms) / 1000);
      },
    });
    new Gauge({
      name: "meltemi_kube_objects",
      help: "Objects of this kind that are in force.",
      labelNames: ["kind"],
      registers,
      collect() {
        this.reset();
        for (const [kind, size] of sizes) this.set({ kind }, size());
      },
    });
    this.#lists = new Counter({
      name: "meltemi_kube_lists_total",
      help: "Lists of a kind, by what came of them.",
      labelNames: ["kind", "result"],
      registers,
    });
    this.#watches = new Counter({
      name: "meltemi_kube_watches_ended_total",
      help: "Watches of a kind that ended, by how.",
      labelNames: ["kind", "result"],
      registers,
    });
  }

  /** @param size how many objects there are now */
  observe(kind: string, size: () => number): CollectionObserver {
    this.#sizes.set(kind, size);
    return {
      heard: () => this.#heardMs.set(kind, this.clock.monotonic()),
      listed: (result) => {
        this.#lists.inc({ kind, result });
        // What is not installed has no lag.
        if (result === "absent") this.#heardMs.delete(kind);
      },
      watchEnded: (result) => this.#watches.inc({ kind, result }),
    };
  }
}
