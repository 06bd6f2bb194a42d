/** The keys of token issuers, with their metrics. */
import { Counter, Gauge, type Registry } from "prom-client";
import type { SourceEvent } from "../../domain/source-event.js";
import type { Clock } from "../../platform/clock.js";
import { httpGet, systemRoots } from "../../platform/http-get.js";
import type { Logger } from "../../platform/logger.js";
import { nodeAddresses } from "../../platform/node-addresses.js";
import type { Random } from "../../platform/random.js";
import { KeySetSource } from "../../sources/jwks/key-set-source.js";

export interface KeySetsOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly registry: Registry;
  readonly environment: NodeJS.ProcessEnv;
  /** On one machine issuers may be on it; on a cluster, whoever owns a namespace says what is fetched. */
  readonly standalone: boolean;
  readonly onEvents: (events: readonly SourceEvent[]) => void;
  readonly signal: AbortSignal;
}

export function openKeySets({ registry, environment, standalone, ...options }: KeySetsOptions): KeySetSource {
  const registers = [registry];
  const fetches = new Counter({
    name: "meltemi_jwks_fetches_total",
    help: "Requests for the keys of token issuers, by result (ok, failed).",
    labelNames: ["result"],
    registers,
  });
  const source = new KeySetSource({
    ...options,
    // Read with each request over TLS: the file may be renewed.
    get: httpGet(() => systemRoots(environment), standalone ? undefined : nodeAddresses()),
    metrics: { fetched: (good) => fetches.inc({ result: good ? "ok" : "failed" }) },
  });
  new Gauge({
    name: "meltemi_jwks_key_sets",
    help: "Key sets that are needed, by state: good, stale (the last fetch failed), missing (tokens are refused).",
    labelNames: ["state"],
    registers,
    collect() {
      for (const [state, count] of Object.entries(source.counts)) this.set({ state }, Number(count));
    },
  });
  return source;
}
