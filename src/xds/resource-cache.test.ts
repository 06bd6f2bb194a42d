import { describe, expect, test } from "vitest";
import type { CompiledService } from "../compile/compiled.js";
import { serviceKey } from "../domain/ids.js";
import { CompiledResource } from "./compiled-resource.js";
import { DiscoveryHub } from "./delta-stream.js";
import { ResourceCache } from "./resource-cache.js";
import { addressType, type SourceChange } from "./resource.js";

function serviceAt(
  name: string,
  ...addresses: readonly (readonly [ip: string, length?: number])[]
): CompiledResource {
  const hostname = `${name}.example.com`;
  const compiled: CompiledService = {
    type: "service",
    key: serviceKey("out", hostname),
    name,
    namespace: "out",
    hostname,
    addresses: addresses.map(([ip, length]) => ({ network: "", ip, length })),
    ipFamilies: "any",
    ports: [],
    subjectAltNames: [],
    waypoint: undefined,
    servedBy: undefined,
    loadBalancing: undefined,
    clientIpAffinity: undefined,
    headless: false,
    canonical: true,
    ingressUseWaypoint: false,
  };
  return new CompiledResource(compiled);
}

function upsert(...resources: readonly CompiledResource[]): Parameters<ResourceCache["apply"]>[0] {
  return { upsert: resources, removeAddresses: [], removeAuthorizations: [] };
}

function found(cache: ResourceCache, name: string): string {
  const lookup = cache.lookup(addressType, name);
  return lookup.state === "found" ? lookup.resource.name : lookup.state;
}

describe("looking up an address", () => {
  const wide = serviceAt("wide", ["10.0.0.0", 8]);
  const narrow = serviceAt("narrow", ["10.1.0.0", 16]);
  const exact = serviceAt("exact", ["10.1.2.3"]);

  test("an exact address comes before a range, a longer range before a shorter one", () => {
    const cache = new ResourceCache("authoritative");
    cache.apply(upsert(wide, narrow, exact));
    expect(found(cache, "/10.1.2.3")).toBe(exact.name);
    expect(found(cache, "/10.1.9.9")).toBe(narrow.name);
    expect(found(cache, "/10.200.0.1")).toBe(wide.name);
    expect(found(cache, "/11.0.0.1")).toBe("absent");
    expect(found(cache, "other/10.1.2.3")).toBe("absent");
  });

  test("of two with one address the same is found whatever came first, and the other when it goes", () => {
    const twin = serviceAt("another", ["10.1.2.3"]);
    for (const order of [
      [exact, twin],
      [twin, exact],
    ]) {
      const cache = new ResourceCache("authoritative");
      for (const one of order) cache.apply(upsert(one));
      expect(found(cache, "/10.1.2.3")).toBe(twin.name);
      cache.apply({ upsert: [], removeAddresses: [twin.name], removeAuthorizations: [] });
      expect(found(cache, "/10.1.2.3")).toBe(exact.name);
    }
  });

  test("a range that comes later withdraws the negative answers within it", () => {
    const cache = new ResourceCache("authoritative");
    cache.apply(upsert());
    const hub = new DiscoveryHub(cache, () => 0);
    let woken = 0;
    const stream = hub.open({ node: "n1", dialect: "meltemi", onDemand: true }, () => (woken += 1));
    const ask = {
      subscribe: ["/10.1.2.3", "/192.0.2.1"],
      unsubscribe: ["*"],
      initialVersions: new Map<string, string>(),
    };
    stream.request(addressType, { ...ask, nonce: "", error: undefined });
    const negative = stream.next();
    expect(negative?.removed.toSorted()).toEqual(["/10.1.2.3", "/192.0.2.1"]);
    stream.request(addressType, { ...ask, subscribe: [], nonce: negative?.nonce ?? "", error: undefined });
    cache.apply(upsert(narrow));
    expect(woken).toBe(1);
    expect(stream.next()?.resources).toEqual([narrow.encoded(addressType, "meltemi")]);
  });
});

describe("a relay's cache", () => {
  test("what was not said to be absent is unknown, and is told when it is said", () => {
    const cache = new ResourceCache("explicit");
    const changes: SourceChange[] = [];
    cache.onChange((change) => changes.push(change));
    cache.apply(upsert());
    expect(found(cache, "/10.1.2.3")).toBe("unknown");
    cache.apply({ ...upsert(), absent: ["/10.1.2.3"] });
    expect(found(cache, "/10.1.2.3")).toBe("absent");
    expect(changes.at(-1)?.names).toEqual(["/10.1.2.3"]);
    cache.apply(upsert(serviceAt("exact", ["10.1.2.3"])));
    expect(found(cache, "/10.1.2.3")).toBe("out/exact.example.com");
    cache.apply({ upsert: [], removeAddresses: ["out/exact.example.com"], removeAuthorizations: [] });
    expect(found(cache, "/10.1.2.3")).toBe("unknown");
  });

  test("a negative answer does not outlive the last subscription", () => {
    const demands: string[] = [];
    const cache = new ResourceCache("explicit", (_type, name, wanted) =>
      demands.push(`${wanted ? "+" : "-"}${name}`),
    );
    cache.apply({ ...upsert(), absent: ["/10.1.2.3"] });
    const hub = new DiscoveryHub(cache, () => 0);
    const request = {
      unsubscribe: [],
      initialVersions: new Map<string, string>(),
      nonce: "",
      error: undefined,
    };
    const one = hub.open({ node: "n1", dialect: "meltemi", onDemand: true }, () => undefined);
    const two = hub.open({ node: "n1", dialect: "meltemi", onDemand: true }, () => undefined);
    for (const stream of [one, two]) stream.request(addressType, { ...request, subscribe: ["/10.1.2.3"] });
    expect(one.next()?.removed).toEqual(["/10.1.2.3"]);
    hub.closeStream(one);
    expect(found(cache, "/10.1.2.3")).toBe("absent");
    hub.closeStream(two);
    expect(found(cache, "/10.1.2.3")).toBe("unknown");
    expect(demands).toEqual(["+/10.1.2.3", "-/10.1.2.3"]);
  });
});
