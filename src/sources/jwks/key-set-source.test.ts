import { expect, test } from "vitest";
import type { KeySetObject } from "../../domain/request-authentication.js";
import type { SourceEvent } from "../../domain/source-event.js";
import type { HttpDocument } from "../../platform/http-get.js";
import { RecordingLogger } from "../../../test/helpers/recording-logger.js";
import { steadyRandom } from "../../../test/helpers/seeded-random.js";
import { VirtualClock } from "../../../test/helpers/virtual-clock.js";
import { KeySetSource } from "./key-set-source.js";

const keys = (kid: string): string =>
  JSON.stringify({ keys: [{ kty: "EC", kid, crv: "P-256", x: "eA", y: "eQ" }] });

/** A source whose web answers as it is told; what it said and asked. */
class Site {
  readonly clock = new VirtualClock();
  readonly stop = new AbortController();
  readonly asked: string[] = [];
  readonly told: (string | undefined)[][] = [];
  readonly web = new Map<string, Partial<HttpDocument> | Error>();
  readonly source = new KeySetSource({
    get: (url) => {
      this.asked.push(url);
      const found = this.web.get(url) ?? new Error("refused");
      if (found instanceof Error) return Promise.reject(found);
      return Promise.resolve({ body: "", cacheControl: "", ...found });
    },
    clock: this.clock,
    random: steadyRandom(0.5),
    log: new RecordingLogger(),
    metrics: { fetched: () => undefined },
    onEvents: (events) => this.#tell(events),
    signal: this.stop.signal,
  });

  #tell(events: readonly SourceEvent[]): void {
    for (const event of events) {
      if (event.type === "remove") this.told.push(["remove", event.name]);
      else {
        const { meta, jwks, problem } = event.object as KeySetObject;
        this.told.push([
          meta.name,
          jwks && (JSON.parse(jwks) as { keys: [{ kid: string }] }).keys[0].kid,
          problem,
        ]);
      }
    }
  }
}

const url = "https://issuer.example/keys";

test("keys are fetched, told once, and asked for again in time", async () => {
  const site = new Site();
  site.web.set(url, { body: keys("a") });
  site.source.want(new Map([[`uri:${url}`, 5_000]]));
  await site.clock.advance(0);
  expect(site.told).toEqual([[`uri:${url}`, "a", undefined]]);
  expect(site.source.counts).toEqual({ good: 1, stale: 0, missing: 0 });
  // The same keys are no news.
  await site.clock.advance(20 * 60_000);
  expect(site.asked).toHaveLength(2);
  expect(site.told).toHaveLength(1);
  site.web.set(url, { body: keys("b"), cacheControl: "max-age=1" });
  await site.clock.advance(20 * 60_000);
  expect(site.told[1]).toEqual([`uri:${url}`, "b", undefined]);
  // An answer that would be old at once is kept for 5 s, and one for a year for 20 minutes.
  site.web.set(url, { body: keys("b"), cacheControl: "max-age=31536000" });
  await site.clock.advance(5_000);
  expect(site.asked).toHaveLength(4);
  await site.clock.advance(20 * 60_000);
  expect(site.asked).toHaveLength(5);
});

test("a failure keeps the last good keys, and is tried again soon and then less often", async () => {
  const site = new Site();
  site.web.set(url, { body: keys("a") });
  site.source.want(new Map([[`uri:${url}`, 5_000]]));
  await site.clock.advance(0);
  for (const bad of [new Error("no route"), { body: "<html>" }, { body: '{"keys": []}' }]) {
    site.web.set(url, bad);
    await site.clock.advance(20 * 60_000);
    const [, kid, problem] = site.told.at(-1) ?? [];
    expect(kid, "the last good keys").toBe("a");
    expect(problem).toMatch(/no route|no JSON Web Key Set|no key/);
    expect(site.source.counts).toEqual({ good: 0, stale: 1, missing: 0 });
    site.web.set(url, { body: keys("a") });
    await site.clock.advance(60_000);
    expect(site.told.at(-1)).toEqual([`uri:${url}`, "a", undefined]);
  }
});

test("keys that never came are told of as missing, with the reason", async () => {
  const site = new Site();
  site.source.want(new Map([[`uri:${url}`, 5_000]]));
  await site.clock.advance(0);
  expect(site.told).toEqual([[`uri:${url}`, undefined, "refused"]]);
  expect(site.source.counts).toEqual({ good: 0, stale: 0, missing: 1 });
  await site.clock.advance(10_000);
  // After about 0.75, 1.5, 3 and 6 s: each time twice as long.
  expect(site.asked).toHaveLength(4);
  expect(site.told, "the same failure is no news").toHaveLength(1);
});

test("an issuer without an address for its keys is asked where they are", async () => {
  const site = new Site();
  const issuer = "https://issuer.example/realm/";
  site.web.set("https://issuer.example/realm/.well-known/openid-configuration", {
    body: JSON.stringify({ issuer, jwks_uri: url }),
  });
  site.web.set(url, { body: keys("a") });
  site.source.want(new Map([[`issuer:${issuer}`, 5_000]]));
  await site.clock.advance(0);
  expect(site.told).toEqual([[`issuer:${issuer}`, "a", undefined]]);
});

test("what is no longer wanted is asked for no more, and its answer comes to nobody", async () => {
  const site = new Site();
  site.web.set(url, { body: keys("a") });
  site.source.want(new Map([[`uri:${url}`, 5_000]]));
  site.source.want(new Map());
  await site.clock.advance(60 * 60_000);
  expect(site.told).toEqual([["remove", `uri:${url}`]]);
  expect(site.asked).toHaveLength(1);
  site.stop.abort();
  site.source.want(new Map([[`uri:${url}`, 5_000]]));
  expect(site.asked, "after the end").toHaveLength(1);
});

test("at most 64 sets are fetched at once, and one that is no longer wanted gives its turn away", async () => {
  const clock = new VirtualClock();
  const asked: string[] = [];
  const answers: (() => void)[] = [];
  const source = new KeySetSource({
    get: (address) => {
      asked.push(address);
      return new Promise((resolve) => answers.push(() => resolve({ body: keys("a"), cacheControl: "" })));
    },
    clock,
    random: steadyRandom(0.5),
    log: new RecordingLogger(),
    metrics: { fetched: () => undefined },
    onEvents: () => undefined,
    signal: new AbortController().signal,
  });
  const names = Array.from({ length: 67 }, (_, index) => `uri:https://issuer.example/${index}`);
  const wanted = new Map(names.map((name) => [name, 5_000]));
  source.want(wanted);
  await clock.advance(0);
  expect(asked).toHaveLength(64);
  wanted.delete("uri:https://issuer.example/64");
  source.want(wanted);
  answers[0]?.();
  await clock.advance(0);
  expect(asked.slice(64)).toEqual(["https://issuer.example/65"]);
  answers[1]?.();
  answers[2]?.();
  await clock.advance(0);
  expect(asked.slice(64)).toEqual(["https://issuer.example/65", "https://issuer.example/66"]);
});
