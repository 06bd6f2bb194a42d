import { messageOf } from "../../domain/error.js";
import type { Clock } from "../../platform/clock.js";
import { hasStatus, KubeStatusError, type KubeApi } from "../../platform/kube-api.js";
import type { Logger } from "../../platform/logger.js";
import { backoffMs, jitter, type Random } from "../../platform/random.js";
import { isMapping, type Mapping } from "../decode/fields.js";

/** Who takes what one collection of the API holds. */
export interface CollectionSink<Item> {
  /**
   * What an object becomes as soon as it has come, so that no list is held in the API's own form. `version` is that of
   * the API, as `v1`.
   */
  reduce(object: Mapping, version: string): Item;
  /** All that there is, at the moment of the list; what is not among it is gone. */
  replaced(items: readonly Item[]): void;
  applied(item: Item): void;
  removed(object: Mapping): void;
  /** The server has no such collection: its CustomResourceDefinition is not installed. */
  absent(): void;
}

/** What happens on the way, for metrics. */
export interface CollectionObserver {
  /** The server has said something: an event, a bookmark, a page. */
  heard(): void;
  listed(result: "complete" | "expired" | "absent" | "failed"): void;
  watchEnded(result: "closed" | "expired" | "failed"): void;
}

export interface ListWatchOptions {
  /** For the log: the kind. */
  readonly name: string;
  readonly api: KubeApi;
  /** The collection's path for each API version, the preferred version first. */
  readonly paths: readonly { readonly version: string; readonly path: string }[];
  /** Selectors: `fieldSelector`, `labelSelector`. */
  readonly query: Readonly<Record<string, string>>;
  /** Whether a server without it is a server: one that has it always is asked until it answers. */
  readonly mayBeAbsent: boolean;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly observer: CollectionObserver;
}

/** Items of one page: some megabytes of pods. */
const pageSize = 500;
const firstRetryMs = 250;
const lastRetryMs = 30_000;
/** For how long the server is asked to keep a watch, from this to twice this, so that not all end together. */
const watchS = 300;
/** A server that does not end a watch that is over has gone. */
const watchGraceMs = 30_000;
/** A watch that ends sooner, with nothing said, is as good as one that failed. */
const shortestWatchMs = 1_000;
/** How often is looked whether a collection that was absent has appeared. */
export const absentRetryMs = 5_000;
const confirmMs = 500;

/**
 * One collection of the API, kept up to date by the protocol that Kubernetes documents ("Efficient detection of
 * changes"): a list in pages, then a watch from the list's version on, with bookmarks; from the beginning again when the
 * server no longer has that version (410). What was told stays in force until a list is complete.
 */
export class ListWatch<Item> {
  /** From where to watch; undefined: a list is needed. */
  #resourceVersion: string | undefined;
  #served: ListWatchOptions["paths"][number] | undefined;
  #attempt = 0;
  /** The server's tokens for further pages live for minutes: who is too slow for that takes all at once. */
  #pages = true;

  constructor(private readonly options: ListWatchOptions) {}

  /** Runs until the signal. */
  async run(sink: CollectionSink<Item>, signal: AbortSignal): Promise<void> {
    const ended = (): boolean => signal.aborted;
    while (!ended()) {
      try {
        if (this.#resourceVersion === undefined && !(await this.#list(sink, signal))) {
          await this.#pause(jitter(this.options.random, absentRetryMs, 0.2), signal);
          continue;
        }
        await this.#watch(sink, signal);
      } catch (error) {
        if (!ended()) await this.#recover(error, signal);
      }
    }
  }

  async #recover(error: unknown, signal: AbortSignal): Promise<void> {
    const { log, name, random } = this.options;
    const afterMs = error instanceof KubeStatusError ? (error.retryAfterMs ?? 0) : 0;
    const delayMs = Math.max(afterMs, backoffMs(random, this.#attempt, firstRetryMs, lastRetryMs));
    this.#attempt += 1;
    const fields = { kind: name, error: messageOf(error), retry_in_ms: Math.round(delayMs) };
    if (hasStatus(error, 410)) log.debug("kubernetes history expired", fields);
    else if (hasStatus(error, 401, 403)) {
      const hint =
        "the process's service account needs get, list and watch of this kind (docs/kubernetes.md)";
      log.error("kubernetes refuses", { ...fields, hint });
    } else log.warn("kubernetes not reached", fields);
    await this.#pause(delayMs, signal);
  }

  async #pause(delayMs: number, signal: AbortSignal): Promise<void> {
    await this.options.clock.sleep(delayMs, { signal }).catch(() => undefined);
  }

  /** True when the collection has been told completely, false when the server has none. */
  async #list(sink: CollectionSink<Item>, signal: AbortSignal): Promise<boolean> {
    const { observer } = this.options;
    try {
      const served = await this.#find(sink, signal);
      if (served === undefined) {
        this.#served = undefined;
        observer.listed("absent");
        sink.absent();
        return false;
      }
      observer.listed("complete");
      this.#attempt = 0;
      this.#pages = true;
      return true;
    } catch (error) {
      if (hasStatus(error, 410)) {
        this.#pages = false;
        observer.listed("expired");
      } else {
        // What failed now may be that the whole does not fit: pages are tried again.
        this.#pages = true;
        observer.listed("failed");
      }
      throw error;
    }
  }

  /** Lists the first version that the server has; undefined where it surely has none. */
  async #find(sink: CollectionSink<Item>, signal: AbortSignal): Promise<string | undefined> {
    const { api, clock, mayBeAbsent, paths } = this.options;
    for (let look = 0; ; look++) {
      let missing: unknown;
      for (const served of this.#served === undefined ? paths : [this.#served, ...paths]) {
        try {
          this.#resourceVersion = await this.#listPages(served, sink, signal);
          this.#served = served;
          return served.version;
        } catch (error) {
          if (!hasStatus(error, 404)) throw error;
          missing = error;
        }
      }
      if (!mayBeAbsent) throw missing;
      // A server that is only starting may not know its kinds yet, and policies must not vanish for that: it has to say
      // twice that it has none, being ready in between.
      if (look === 1) return undefined;
      await api.call({ method: "GET", path: "/readyz", signal }).catch((error: unknown) => {
        if (!hasStatus(error, 403)) throw error;
      });
      await clock.sleep(confirmMs, { signal });
    }
  }

  async #listPages(
    { path, version }: ListWatchOptions["paths"][number],
    sink: CollectionSink<Item>,
    signal: AbortSignal,
  ): Promise<string> {
    const { api, observer, query } = this.options;
    const items: Item[] = [];
    let next: string | undefined;
    for (;;) {
      const page = await api.call({
        method: "GET",
        path,
        query: {
          ...query,
          ...(this.#pages && { limit: String(pageSize) }),
          ...(next !== undefined && { continue: next }),
        },
        signal,
      });
      observer.heard();
      const { metadata, items: found } = isMapping(page) ? page : {};
      if (!isMapping(metadata) || typeof metadata["resourceVersion"] !== "string")
        throw new KubeStatusError(502, "", `GET ${path}: the answer is no list`);
      for (const item of Array.isArray(found) ? (found as unknown[]) : [])
        if (isMapping(item)) items.push(sink.reduce(item, version));
      next = typeof metadata["continue"] === "string" ? metadata["continue"] || undefined : undefined;
      if (next === undefined) {
        sink.replaced(items);
        return metadata["resourceVersion"];
      }
    }
  }

  async #watch(sink: CollectionSink<Item>, signal: AbortSignal): Promise<void> {
    const { api, clock, observer, query, random } = this.options;
    const served = this.#served;
    const from = this.#resourceVersion;
    if (served === undefined || from === undefined) return;
    const seconds = Math.round(watchS * (1 + random.uniform()));
    const startedMs = clock.monotonic();
    let spoke = false;
    try {
      const events = api.stream({
        method: "GET",
        path: served.path,
        query: {
          ...query,
          watch: "true",
          allowWatchBookmarks: "true",
          resourceVersion: from,
          timeoutSeconds: String(seconds),
        },
        signal,
        timeoutMs: seconds * 1000 + watchGraceMs,
      });
      for await (const event of events) {
        if (signal.aborted) return;
        observer.heard();
        this.#take(event, served.version, sink);
        spoke = true;
        this.#attempt = 0;
      }
    } catch (error) {
      if (signal.aborted) return;
      const expired = hasStatus(error, 404, 410);
      observer.watchEnded(expired ? "expired" : "failed");
      if (expired) this.#resourceVersion = undefined;
      throw error;
    }
    if (signal.aborted) return;
    observer.watchEnded("closed");
    if (!spoke && clock.monotonic() - startedMs < shortestWatchMs)
      throw new KubeStatusError(503, "", `the watch of ${served.path} ended at once`);
  }

  #take(event: unknown, version: string, sink: CollectionSink<Item>): void {
    const { type, object } = isMapping(event) ? event : {};
    if (!isMapping(object)) throw new KubeStatusError(502, "", "an event of the watch has no object");
    if (type === "ERROR") {
      const { code, reason, message } = object;
      throw new KubeStatusError(
        typeof code === "number" ? code : 500,
        typeof reason === "string" ? reason : "",
        `the watch was ended: ${typeof message === "string" ? message : "without a reason"}`,
      );
    }
    const metadata = isMapping(object["metadata"]) ? object["metadata"] : {};
    switch (type) {
      case "ADDED":
      case "MODIFIED":
        sink.applied(sink.reduce(object, version));
        break;
      case "DELETED":
        sink.removed(object);
        break;
      case "BOOKMARK":
        break;
      default:
        this.options.log.warn("event of a watch not known", { kind: this.options.name, type: String(type) });
    }
    // Only once it has been taken: what was not is asked for again.
    if (typeof metadata["resourceVersion"] === "string") this.#resourceVersion = metadata["resourceVersion"];
  }
}
