/**
 * Keys of token issuers, fetched where users' objects say and told as objects of the mesh. Refreshed before they are
 * old; a failure keeps the last good ones and is tried again soon.
 */
import { messageOf } from "../../domain/error.js";
import type { KeySetObject } from "../../domain/request-authentication.js";
import type { SourceEvent } from "../../domain/source-event.js";
import type { Cancel, Clock } from "../../platform/clock.js";
import type { HttpGet } from "../../platform/http-get.js";
import type { Logger } from "../../platform/logger.js";
import { Turns } from "../../platform/turns.js";
import { backoffMs, jitter, type Random } from "../../platform/random.js";
import { maxAgeMs, readDiscovery, readKeySet } from "./key-set-document.js";

/** From one good answer to the next request: this, or what the answer says within these bounds. */
const refreshMs = 20 * 60_000;
const soonestMs = 5_000;
const refreshJitter = 0.1;
const firstRetryMs = 1_000;
const lastRetryMs = 60_000;
/** Sets that are fetched at the same time; others wait. */
const mostFetches = 64;
const limits = { mostBytes: 1 << 20, redirects: 5 } as const;

export interface KeySetMetrics {
  readonly fetched: (good: boolean) => void;
}

export interface KeySetSourceOptions {
  readonly get: HttpGet;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly metrics: KeySetMetrics;
  readonly onEvents: (events: readonly SourceEvent[]) => void;
  readonly signal: AbortSignal;
}

/** One set that is wanted. */
interface Wanted {
  timeoutMs: number;
  jwks: string | undefined;
  problem: string | undefined;
  failures: number;
  readonly ended: AbortController;
  cancel: Cancel | undefined;
}

export interface KeySetCounts {
  /** Their last fetch succeeded; it did not, and older keys are in force; no keys are there. */
  readonly good: number;
  readonly stale: number;
  readonly missing: number;
}

export class KeySetSource {
  readonly #options: KeySetSourceOptions;
  readonly #wanted = new Map<string, Wanted>();
  readonly #turns = new Turns(mostFetches);

  constructor(options: KeySetSourceOptions) {
    this.#options = options;
    options.signal.addEventListener("abort", () => this.want(new Map()), { once: true });
  }

  get counts(): KeySetCounts {
    const all = [...this.#wanted.values()];
    const missing = all.filter(({ jwks }) => jwks === undefined).length;
    const good = all.filter(({ jwks, problem }) => jwks !== undefined && problem === undefined).length;
    return { good, missing, stale: all.length - good - missing };
  }

  /** The sets that are needed from now on, by name, with the time that one request for each may take. */
  want(sets: ReadonlyMap<string, number>): void {
    const gone: SourceEvent[] = [];
    for (const [name, wanted] of this.#wanted) {
      if (sets.has(name)) continue;
      wanted.ended.abort();
      wanted.cancel?.();
      this.#wanted.delete(name);
      gone.push({ type: "remove", kind: "KeySet", namespace: "", name });
    }
    if (this.#options.signal.aborted) return;
    if (gone.length > 0) this.#options.onEvents(gone);
    for (const [name, timeoutMs] of sets) {
      const known = this.#wanted.get(name);
      if (known) {
        known.timeoutMs = timeoutMs;
        continue;
      }
      const wanted: Wanted = {
        timeoutMs,
        jwks: undefined,
        problem: undefined,
        failures: 0,
        ended: new AbortController(),
        cancel: undefined,
      };
      this.#wanted.set(name, wanted);
      void this.#refresh(name, wanted);
    }
  }

  async #refresh(name: string, wanted: Wanted): Promise<void> {
    const { clock, random, log, metrics } = this.#options;
    const before = { jwks: wanted.jwks, problem: wanted.problem };
    let delayMs: number;
    try {
      const { jwks, freshMs } = await this.#turns.run(() => this.#fetch(name, wanted), wanted.ended.signal);
      if (wanted.ended.signal.aborted) return;
      wanted.jwks = jwks;
      wanted.problem = undefined;
      wanted.failures = 0;
      metrics.fetched(true);
      if (jwks !== before.jwks) log.info("token keys fetched", { key_set: name });
      delayMs = Math.max(soonestMs, jitter(random, Math.min(freshMs, refreshMs), refreshJitter));
    } catch (error) {
      if (wanted.ended.signal.aborted) return;
      wanted.problem = messageOf(error);
      metrics.fetched(false);
      if (wanted.problem !== before.problem)
        log.warn("token keys not fetched", { key_set: name, error: wanted.problem });
      delayMs = backoffMs(random, wanted.failures, firstRetryMs, lastRetryMs);
      wanted.failures += 1;
    }
    if (wanted.jwks !== before.jwks || wanted.problem !== before.problem)
      this.#options.onEvents([{ type: "apply", object: objectOf(name, wanted) }]);
    wanted.cancel = clock.schedule(delayMs, () => void this.#refresh(name, wanted), {
      signal: wanted.ended.signal,
      background: true,
    });
  }

  async #fetch(
    name: string,
    { timeoutMs, ended }: Wanted,
  ): Promise<{ readonly jwks: string; readonly freshMs: number }> {
    const options = { ...limits, timeoutMs, signal: ended.signal };
    const { get } = this.#options;
    const colon = name.indexOf(":");
    let url = name.slice(colon + 1);
    if (name.slice(0, colon) === "issuer") {
      const metadata = await get(`${url.replace(/\/$/, "")}/.well-known/openid-configuration`, options);
      url = readDiscovery(metadata.body, url);
    }
    const { body, cacheControl } = await get(url, options);
    return { jwks: readKeySet(body), freshMs: maxAgeMs(cacheControl) ?? refreshMs };
  }
}

function objectOf(name: string, { jwks, problem }: Wanted): KeySetObject {
  const meta = {
    apiVersion: "meltemi.io/v1",
    namespace: "",
    name,
    uid: "",
    generation: 1,
    labels: new Map<string, string>(),
    annotations: new Map<string, string>(),
  };
  return { kind: "KeySet", meta, jwks, problem };
}
