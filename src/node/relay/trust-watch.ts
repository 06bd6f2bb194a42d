import { messageOf } from "../../domain/error.js";
import { TrustServiceClient, type TrustBundle } from "../../gen/meltemi/v1/trust.js";
import type { Clock } from "../../platform/clock.js";
import type { Logger } from "../../platform/logger.js";
import { backoffMs, type Random } from "../../platform/random.js";
import type { Upstream } from "../../xds/client.js";
import { pause } from "../pause.js";

export interface TrustWatchOptions {
  readonly upstream: () => Promise<Upstream>;
  /** Has the data plane renew every certificate whose not_before is at or before that time; rejects when it cannot be asked. */
  readonly renew: (notBeforeUntil: Date) => Promise<void>;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
}

/**
 * Follows the mesh's trust bundle (docs/node-interfaces.md, "Trust bundle"): when the roots or the issuer
 * change, the data plane is told to renew what it holds, at a random moment within the time given.
 */
export class TrustWatch {
  #bundle: TrustBundle | undefined;
  #pending = new AbortController();

  constructor(private readonly options: TrustWatchOptions) {}

  /** The version of the bundle heard last. */
  get version(): number | undefined {
    return this.#bundle?.version;
  }

  /** Follows until the signal aborts, reconnecting with back-off. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, random, log } = this.options;
    for (let attempt = 0; ; attempt += 1) {
      try {
        await this.#follow(signal, () => {
          attempt = -1;
        });
      } catch (error) {
        if (!signal.aborted) log.debug("trust bundle not followed", { error: messageOf(error) });
      }
      this.#pending.abort();
      this.#bundle = undefined;
      await pause(clock, backoffMs(random, Math.max(0, attempt), 100, 15_000), signal);
      if (signal.aborted) return;
    }
  }

  /** A data plane has (re)started: what was asked of the one before is asked of it too. */
  dataPlaneStarted(): void {
    if (this.#bundle !== undefined) this.#ask(this.#bundle, 0);
  }

  async #follow(signal: AbortSignal, onMessage: () => void): Promise<void> {
    const upstream = await this.options.upstream();
    const client = new TrustServiceClient(upstream.target, upstream.credentials, upstream.options);
    try {
      const stream = client.watchTrustBundle({}, upstream.metadata);
      const cancel = (): void => stream.cancel();
      signal.addEventListener("abort", cancel, { once: true });
      if (signal.aborted) stream.cancel();
      try {
        for await (const bundle of stream as AsyncIterable<TrustBundle>) {
          onMessage();
          this.#bundle = bundle;
          this.#ask(bundle, bundle.spreadMs);
        }
      } finally {
        signal.removeEventListener("abort", cancel);
      }
    } finally {
      client.close();
    }
  }

  /** Asks until it has been taken, or a newer bundle has come. */
  #ask(bundle: TrustBundle, spreadMs: number): void {
    this.#pending.abort();
    if (bundle.renewNotBeforeUntilS === 0) return;
    this.#pending = new AbortController();
    void this.#renew(bundle, spreadMs, this.#pending.signal);
  }

  async #renew(bundle: TrustBundle, spreadMs: number, signal: AbortSignal): Promise<void> {
    const { clock, random, log, renew } = this.options;
    await pause(clock, spreadMs * random.uniform(), signal);
    for (let attempt = 0; ; attempt += 1) {
      if (signal.aborted) return;
      try {
        await renew(new Date(bundle.renewNotBeforeUntilS * 1000));
        log.info("certificates are being renewed", { trust_version: bundle.version });
        return;
      } catch (error) {
        log.warn("data plane not asked to renew", { trust_version: bundle.version, error: messageOf(error) });
      }
      await pause(clock, backoffMs(random, attempt, 200, 10_000), signal);
    }
  }
}
