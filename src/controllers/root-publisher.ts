import { messageOf } from "../domain/error.js";
import type { Cancel, Clock } from "../platform/clock.js";
import { hasStatus, type KubeApi } from "../platform/kube-api.js";
import type { Logger } from "../platform/logger.js";
import { backoffMs, type Random } from "../platform/random.js";
import { isMapping, type Mapping } from "../sources/decode/fields.js";
import { ListWatch, type CollectionObserver, type CollectionSink } from "../sources/kube/list-watch.js";

/** Ours, and the name under which programs made for Istio look for the mesh's roots. */
export const rootConfigMaps = ["meltemi-ca-root-cert", "istio-ca-root-cert"] as const;
type RootConfigMap = (typeof rootConfigMaps)[number];
const dataKey = "root-cert.pem";
const fieldManager = "meltemi";

export interface RootPublisherOptions {
  readonly api: KubeApi;
  /** All trusted roots in one PEM text, as they are now. */
  readonly roots: () => string;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly observe: (name: string, size: () => number) => CollectionObserver;
}

/** Writes under way at once: a cluster of a thousand namespaces is through within seconds, and the API server does not notice. */
const mostWrites = 4;
/** Before the first look at what is missing, so that of several replicas one writes and the others see that it has. */
const firstPauseMs = 500;
const firstRetryMs = 1_000;
const lastRetryMs = 600_000;
/** A ConfigMap that stayed right for so long is nobody's bone of contention. */
const peaceMs = 600_000;

interface Published {
  readonly namespace: string;
  readonly text: string | undefined;
}

/** What has been tried with one ConfigMap. */
interface Attempts {
  count: number;
  lastMs: number;
  cancel: Cancel;
  /** Somebody else's: it is left alone until it is gone. */
  foreign: boolean;
}

/**
 * Keeps the roots in a ConfigMap of every namespace. Level-triggered: it is written where what is there differs, and
 * nowhere else; what others put back is contested ever more seldom. `istio-ca-root-cert` is left to Istio where Istio
 * has written it.
 */
export class RootPublisher {
  readonly #namespaces = new Set<string>();
  readonly #present = new Map<RootConfigMap, Map<string, string | undefined>>();
  readonly #attempts = new Map<string, Attempts>();
  readonly #queue = new Set<string>();
  #writing = 0;
  #signal: AbortSignal | undefined;

  constructor(private readonly options: RootPublisherOptions) {}

  /** All namespaces that there are. */
  namespaces(names: Iterable<string>): void {
    const present = new Set(names);
    for (const name of this.#namespaces) {
      if (present.has(name)) continue;
      this.#namespaces.delete(name);
      for (const map of rootConfigMaps) this.#forget(`${map}/${name}`);
    }
    for (const name of present) {
      if (this.#namespaces.has(name)) continue;
      this.#namespaces.add(name);
      this.#check(name);
    }
  }

  /** The roots are others now. */
  rootsChanged(): void {
    for (const name of this.#namespaces) this.#check(name);
  }

  /** Runs until the signal. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, random } = this.options;
    await clock
      .sleep(firstPauseMs * (1 + 4 * random.uniform()), { signal, background: true })
      .catch(() => undefined);
    this.#signal = signal;
    await Promise.all(rootConfigMaps.map((name) => this.#follow(name, signal)));
    for (const key of [...this.#attempts.keys()]) this.#forget(key);
  }

  #follow(name: RootConfigMap, signal: AbortSignal): Promise<void> {
    const { api, clock, random, log, observe } = this.options;
    const at = (): Map<string, string | undefined> =>
      this.#present.get(name) ?? new Map<string, string | undefined>();
    const sink: CollectionSink<Published> = {
      reduce: readPublished,
      replaced: (items) => {
        this.#present.set(name, new Map(items.map(({ namespace, text }) => [namespace, text])));
        for (const namespace of this.#namespaces) this.#check(namespace);
      },
      applied: ({ namespace, text }) => {
        at().set(namespace, text);
        this.#check(namespace);
      },
      removed: (object) => {
        const { namespace } = readPublished(object);
        at().delete(namespace);
        const attempts = this.#attempts.get(`${name}/${namespace}`);
        if (attempts !== undefined) attempts.foreign = false;
        this.#check(namespace);
      },
      absent: () => undefined,
    };
    return new ListWatch<Published>({
      name: `ConfigMap ${name}`,
      api,
      paths: [{ version: "v1", path: "/api/v1/configmaps" }],
      query: { fieldSelector: `metadata.name=${name}` },
      mayBeAbsent: false,
      clock,
      random,
      log,
      observer: observe(`ConfigMap ${name}`, () => at().size),
    }).run(sink, signal);
  }

  /** Queues what is not right in a namespace. */
  #check(namespace: string): void {
    for (const name of rootConfigMaps)
      if (this.#differs(name, namespace)) this.#enqueue(`${name}/${namespace}`);
    this.#work();
  }

  #differs(name: RootConfigMap, namespace: string): boolean {
    const present = this.#present.get(name);
    // Not listed yet: nothing is known, so nothing is wrong.
    return (
      present !== undefined &&
      this.#namespaces.has(namespace) &&
      this.#attempts.get(`${name}/${namespace}`)?.foreign !== true &&
      present.get(namespace) !== this.options.roots()
    );
  }

  #enqueue(key: string): void {
    const { clock, random } = this.options;
    const attempts = this.#attempts.get(key);
    if (attempts === undefined || clock.monotonic() - attempts.lastMs >= peaceMs) {
      this.#forget(key);
      this.#queue.add(key);
      return;
    }
    attempts.cancel();
    const dueMs = attempts.lastMs + backoffMs(random, attempts.count - 1, firstRetryMs, lastRetryMs);
    attempts.cancel = clock.schedule(
      Math.max(0, dueMs - clock.monotonic()),
      () => {
        this.#queue.add(key);
        this.#work();
      },
      { signal: this.#signal, background: true },
    );
  }

  #forget(key: string): void {
    this.#attempts.get(key)?.cancel();
    this.#attempts.delete(key);
    this.#queue.delete(key);
  }

  #work(): void {
    while (this.#signal?.aborted === false && this.#writing < mostWrites) {
      const [key] = this.#queue;
      if (key === undefined) return;
      this.#queue.delete(key);
      const slash = key.indexOf("/");
      const [name, namespace] = [key.slice(0, slash) as RootConfigMap, key.slice(slash + 1)];
      if (!this.#differs(name, namespace)) continue;
      this.#writing += 1;
      void this.#write(name, namespace).finally(() => {
        this.#writing -= 1;
        this.#work();
      });
    }
  }

  async #write(name: RootConfigMap, namespace: string): Promise<void> {
    const { api, clock, log, roots } = this.options;
    const key = `${name}/${namespace}`;
    const attempts = this.#attempts.get(key) ?? {
      count: 0,
      lastMs: 0,
      cancel: () => undefined,
      foreign: false,
    };
    attempts.count += 1;
    attempts.lastMs = clock.monotonic();
    this.#attempts.set(key, attempts);
    const text = roots();
    try {
      await api.call({
        method: "PATCH",
        path: `/api/v1/namespaces/${namespace}/configmaps/${name}`,
        query: { fieldManager, force: String(name === "meltemi-ca-root-cert") },
        contentType: "application/apply-patch+yaml",
        body: {
          apiVersion: "v1",
          kind: "ConfigMap",
          metadata: { name, namespace, labels: { "app.kubernetes.io/managed-by": "meltemi" } },
          data: { [dataKey]: text },
        },
        signal: this.#signal,
      });
      this.#present.get(name)?.set(namespace, text);
    } catch (error) {
      if (this.#signal?.aborted !== false) return;
      // Ours is applied with force: a conflict there is of the moment, and no word of another owner.
      if (name === "istio-ca-root-cert" && hasStatus(error, 409)) {
        attempts.foreign = true;
        log.info("root left to its owner", { configmap: `${namespace}/${name}`, reason: messageOf(error) });
        return;
      }
      // A namespace that is going takes nothing new; it will be gone soon.
      const going = hasStatus(error, 403, 404);
      log[going ? "debug" : "warn"]("root not published", {
        configmap: `${namespace}/${name}`,
        error: messageOf(error),
      });
      if (this.#differs(name, namespace)) this.#enqueue(key);
    }
  }
}

function readPublished(object: Mapping): Published {
  const { metadata, data } = object;
  const namespace = isMapping(metadata) ? metadata["namespace"] : undefined;
  const text = isMapping(data) ? data[dataKey] : undefined;
  return {
    namespace: typeof namespace === "string" ? namespace : "",
    text: typeof text === "string" ? text : undefined,
  };
}
