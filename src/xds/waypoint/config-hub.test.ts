import { describe, expect, it } from "vitest";
import type { CompiledHttpRoute, CompiledRequestPolicy } from "../../compile/waypoint/config.js";
import { Resource } from "../../gen/envoy/service/discovery/v3/ads.js";
import { HttpRoute } from "../../gen/meltemi/v1/waypoint.js";
import type { DeltaRequest, DeltaResponse } from "../subscription.js";
import { ConfigHub, type ConfigStream } from "./config-hub.js";
import { configTypeOf } from "./config-type.js";

const routes = configTypeOf.http_route;
const policies = configTypeOf.request_policy;

function route(name: string, waypoints: readonly string[], weight = 1): CompiledHttpRoute {
  return {
    type: "waypoint_config",
    kind: "http_route",
    name: `HTTPRoute/shop/${name}`,
    waypoints,
    namespace: "shop",
    routeName: name,
    sourceObject: `HTTPRoute/shop/${name}`,
    order: "MOST_SPECIFIC",
    createdMs: 0,
    parents: [],
    hostnames: [],
    consumerNamespace: undefined,
    rules: [
      {
        name: "",
        matches: [{ path: { type: "segments", value: "/" }, method: undefined, headers: [], query: [] }],
        filters: [],
        backends: [
          { target: { service: undefined, port: 80, invalid: "BackendNotFound" }, weight, filters: [] },
        ],
        timeouts: { requestMs: undefined, backendRequestMs: undefined },
        retry: undefined,
      },
    ],
  };
}

function policy(name: string, waypoints: readonly string[]): CompiledRequestPolicy {
  return {
    type: "waypoint_config",
    kind: "request_policy",
    name: `shop/${name}`,
    waypoints,
    namespace: "shop",
    policyName: name,
    sourceObject: `AuthorizationPolicy/shop/${name}`,
    action: "ALLOW",
    provider: "",
    external: undefined,
    dryRun: false,
    targets: [{ type: "waypoint" }],
    rules: [],
  };
}

const asking = (over: Partial<DeltaRequest> = {}): DeltaRequest => ({
  subscribe: ["*"],
  unsubscribe: [],
  initialVersions: new Map(),
  nonce: "",
  error: undefined,
  ...over,
});

const namesIn = (response: DeltaResponse | undefined): string[] | undefined =>
  response?.resources.map((bytes) => Resource.decode(bytes).name).sort();

function opened(hub: ConfigHub, waypoint: string): { stream: ConfigStream; woken: () => number } {
  let count = 0;
  const stream = hub.open(waypoint, () => (count += 1));
  return { stream, woken: () => count };
}

/** Takes and acknowledges everything that waits, as what the client then is told. */
function drain(stream: ConfigStream): { names: string[]; removed: string[] } {
  const told = { names: [] as string[], removed: [] as string[] };
  for (let response = stream.next(); response; response = stream.next()) {
    told.names.push(...(namesIn(response) ?? []));
    told.removed.push(...response.removed);
    stream.request(response.type as typeof routes, asking({ subscribe: [], nonce: response.nonce }));
  }
  return told;
}

describe("configuration for waypoints", () => {
  it("is told to the waypoints that it names, and moves with them", () => {
    const hub = new ConfigHub(() => 0);
    hub.applyChange({
      configs: [route("a", ["shop/w1"]), route("b", ["shop/w1", "shop/w2"])],
      removedConfigs: [],
    })();
    const one = opened(hub, "shop/w1");
    const two = opened(hub, "shop/w2");
    one.stream.request(routes, asking());
    two.stream.request(routes, asking());
    expect(drain(one.stream)).toEqual({ names: ["HTTPRoute/shop/a", "HTTPRoute/shop/b"], removed: [] });
    expect(drain(two.stream)).toEqual({ names: ["HTTPRoute/shop/b"], removed: [] });
    hub.applyChange({ configs: [route("a", ["shop/w2"])], removedConfigs: [] })();
    expect([one.woken(), two.woken()]).toEqual([1, 1]);
    expect(drain(one.stream)).toEqual({ names: [], removed: ["HTTPRoute/shop/a"] });
    expect(drain(two.stream)).toEqual({ names: ["HTTPRoute/shop/a"], removed: [] });
    hub.applyChange({ configs: [], removedConfigs: [{ kind: "http_route", name: "HTTPRoute/shop/a" }] })();
    expect([one.woken(), two.woken()]).toEqual([1, 2]);
    expect(drain(two.stream)).toEqual({ names: [], removed: ["HTTPRoute/shop/a"] });
  });

  it("comes once, as it is when the client is ready for it, and not again after a reconnect", () => {
    const hub = new ConfigHub(() => 0);
    hub.applyChange({ configs: [route("a", ["shop/w1"])], removedConfigs: [] })();
    const { stream } = opened(hub, "shop/w1");
    stream.request(routes, asking());
    const first = stream.next();
    hub.applyChange({ configs: [route("a", ["shop/w1"], 2)], removedConfigs: [] })();
    hub.applyChange({ configs: [route("a", ["shop/w1"], 3)], removedConfigs: [] })();
    expect(stream.next(), "the client has not answered").toBeUndefined();
    stream.request(routes, asking({ subscribe: [], nonce: first?.nonce ?? "" }));
    const second = stream.next();
    const resource = Resource.decode(second?.resources[0] ?? Buffer.alloc(0));
    const value = HttpRoute.decode(resource.resource?.value ?? Buffer.alloc(0));
    expect(value.rules[0]?.backends[0]?.weight).toBe(3);
    const again = opened(hub, "shop/w1");
    again.stream.request(
      routes,
      asking({
        initialVersions: new Map([
          ["HTTPRoute/shop/a", resource.version],
          ["HTTPRoute/shop/gone", "x"],
        ]),
      }),
    );
    expect(drain(again.stream)).toEqual({ names: [], removed: ["HTTPRoute/shop/gone"] });
  });

  it("is not told before there is anything to tell: what the client holds must not go", () => {
    const hub = new ConfigHub(() => 0);
    const { stream, woken } = opened(hub, "shop/w1");
    stream.request(routes, asking({ initialVersions: new Map([["HTTPRoute/shop/a", "1"]]) }));
    expect(stream.next()).toBeUndefined();
    hub.applyChange({ configs: [route("a", ["shop/w1"])], removedConfigs: [] })();
    expect(woken()).toBe(1);
    expect(drain(stream)).toEqual({ names: ["HTTPRoute/shop/a"], removed: [] });
  });

  it("answers a type of which there is nothing, and holds what is served until newer policies are taken", () => {
    const hub = new ConfigHub(() => 0);
    hub.applyChange({ configs: [], removedConfigs: [] })();
    const { stream } = opened(hub, "shop/w1");
    stream.request(policies, asking());
    stream.request(routes, asking());
    expect(drain(stream)).toEqual({ names: [], removed: [] });
    hub.applyChange({ configs: [policy("p", ["shop/w1"])], removedConfigs: [] })();
    const sent = stream.next();
    expect(namesIn(sent)).toEqual(["shop/p"]);
    hub.applyChange({ configs: [policy("q", ["shop/w1"]), route("a", ["shop/w1"])], removedConfigs: [] })();
    expect(stream.next(), "policy q waits for p's answer, and the route for q").toBeUndefined();
    stream.request(policies, asking({ subscribe: [], nonce: sent?.nonce ?? "" }));
    expect(drain(stream).names).toEqual(["shop/q", "HTTPRoute/shop/a"]);
  });

  it("takes policies back when what they guarded is gone, and waits for nothing else", () => {
    const hub = new ConfigHub(() => 0);
    const moved = (waypoint: string): void =>
      hub.applyChange({ configs: [policy("p", [waypoint]), route("a", [waypoint])], removedConfigs: [] })();
    moved("shop/w1");
    const { stream } = opened(hub, "shop/w1");
    stream.request(policies, asking());
    stream.request(routes, asking());
    expect(drain(stream).names).toEqual(["shop/p", "HTTPRoute/shop/a"]);
    moved("shop/w2");
    expect(stream.nextPolicies(), "the policy stays").toBeUndefined();
    expect(stream.settled, "the route is still there").toBe(false);
    expect(stream.nextTakenBack()).toBeUndefined();
    // A policy that comes meanwhile goes first, and does not take the other one along.
    hub.applyChange({ configs: [policy("q", ["shop/w1"])], removedConfigs: [] })();
    const first = stream.nextPolicies();
    expect([namesIn(first), first?.removed]).toEqual([["shop/q"], []]);
    const second = stream.next();
    expect([second?.type, second?.removed], "q's answer holds up no route").toEqual([
      routes,
      ["HTTPRoute/shop/a"],
    ]);
    stream.request(policies, asking({ subscribe: [], nonce: first?.nonce ?? "" }));
    expect(stream.nextTakenBack(), "the client has not let go of the route").toBeUndefined();
    stream.request(routes, asking({ subscribe: [], nonce: second?.nonce ?? "" }));
    expect([stream.next(), stream.settled], "a policy to be taken back is waited for by none").toEqual([
      undefined,
      true,
    ]);
    const last = stream.nextTakenBack();
    expect([last?.type, last?.removed]).toEqual([policies, ["shop/p"]]);
    stream.request(policies, asking({ subscribe: [], nonce: last?.nonce ?? "" }));
    expect(stream.nextTakenBack()).toBeUndefined();
  });

  it("keeps a policy that comes back before it was taken", () => {
    const hub = new ConfigHub(() => 0);
    hub.applyChange({ configs: [policy("p", ["shop/w1"])], removedConfigs: [] })();
    const { stream } = opened(hub, "shop/w1");
    stream.request(policies, asking());
    drain(stream);
    hub.applyChange({ configs: [], removedConfigs: [{ kind: "request_policy", name: "shop/p" }] })();
    expect(stream.next()).toBeUndefined();
    hub.applyChange({ configs: [policy("p", ["shop/w1"])], removedConfigs: [] })();
    expect([stream.next(), stream.nextTakenBack()]).toEqual([undefined, undefined]);
  });

  it("is told whole: a name is no subscription", () => {
    const { stream } = opened(new ConfigHub(() => 0), "shop/w1");
    expect(() => stream.request(routes, asking({ subscribe: ["HTTPRoute/other/secret"] }))).toThrow(
      "told whole",
    );
  });
});
