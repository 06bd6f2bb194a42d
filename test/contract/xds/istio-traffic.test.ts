/** VirtualServices and DestinationRules from YAML to what a waypoint is told over the wire. */
import { beforeEach, describe, expect, it } from "vitest";
import { Compiler } from "../../../src/compile/compiler.js";
import { defaultCompileConfig } from "../../../src/compile/config.js";
import type { CompiledChange } from "../../../src/compile/compiled.js";
import { HttpRoute, TrafficPolicy, TrafficPolicy_Balance } from "../../../src/gen/meltemi/v1/waypoint.js";
import { decodeText } from "../../../src/sources/decode/text.js";
import { encodeConfig } from "../../../src/xds/waypoint/encode.js";

const mesh = `
apiVersion: v1
kind: Namespace
metadata: { name: shop, labels: { istio.io/use-waypoint: wp } }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: wp, namespace: shop }
spec:
  gatewayClassName: meltemi-waypoint
  addresses: [{ value: 10.0.9.1 }]
  listeners: [{ name: mesh, port: 15008, protocol: HBONE }]
---
apiVersion: v1
kind: Service
metadata: { name: cart, namespace: shop }
spec: { clusterIP: 10.96.0.1, selector: { app: cart }, ports: [{ name: http, port: 80 }] }
`;

const pod = (name: string, version: string): string => `
apiVersion: v1
kind: Pod
metadata: { name: ${name}, namespace: shop, labels: { app: cart, version: ${version} } }
spec: { serviceAccountName: cart }
status: { podIP: 10.0.1.${name === "a" ? 1 : 2}, phase: Running }
`;

const rule = `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: { name: cart, namespace: shop }
spec:
  host: cart
  trafficPolicy:
    loadBalancer: { consistentHash: { httpCookie: { name: user, ttl: 0s } } }
    connectionPool: { http: { http2MaxRequests: 7 } }
    outlierDetection: { consecutiveGatewayErrors: 3 }
  subsets: [{ name: v1, labels: { version: v1 } }, { name: v2, labels: { version: v2 } }]
`;

let compiler: Compiler;

function apply(text: string): CompiledChange {
  const objects = decodeText(text, "test.yaml", { origin: "files" }).objects.map(({ decoded }) => {
    if (decoded.outcome !== "understood") throw new Error(JSON.stringify(decoded.problems));
    return decoded.object;
  });
  return compiler.apply(objects.map((object) => ({ type: "apply", object }) as const));
}

/** The one route that a VirtualService's `http` becomes, as a waypoint reads it. */
function routed(http: string): HttpRoute {
  const { configs } = apply(`
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: cart, namespace: shop }
spec: { hosts: [cart], http: ${http} }
`);
  const [route, ...more] = configs.filter(({ kind }) => kind === "http_route");
  if (!route || more.length > 0) throw new Error(`${more.length + (route ? 1 : 0)} routes`);
  return HttpRoute.decode(encodeConfig(route));
}

function policies(change: CompiledChange): TrafficPolicy[] {
  return change.configs.flatMap((config) =>
    config.kind === "traffic_policy" ? [TrafficPolicy.decode(encodeConfig(config))] : [],
  );
}

beforeEach(() => {
  compiler = new Compiler(defaultCompileConfig);
  apply([mesh, pod("a", "v1"), pod("b", "v1")].join("---\n"));
});

describe("a VirtualService", () => {
  it("keeps the order of its rules, and every condition of a match", () => {
    const { order, parents, rules } = routed(`[{
      match: [{
        uri: { prefix: /A }, ignoreUriCase: true, method: { exact: GET }, authority: { exact: "Cart:80" }, port: 80,
        sourceNamespace: front, headers: { x-a: {} }, withoutHeaders: { x-b: { regex: "1|2" } },
        queryParams: { q: { prefix: z } } }],
      route: [{ destination: { host: cart, subset: v2 } }] }]`);
    expect(order).toBe(1);
    expect(parents).toEqual([
      { target: { $case: "service", value: "shop/cart.shop.svc.cluster.local" }, port: 0 },
    ]);
    expect(rules[0]?.matches).toEqual([
      {
        path: { kind: { $case: "prefix", value: "/A" }, ignoreCase: true },
        method: { kind: { $case: "exact", value: "GET" }, ignoreCase: false },
        authority: { kind: { $case: "exact", value: "cart" }, ignoreCase: false },
        scheme: undefined,
        headers: [
          { name: "x-a", value: { kind: { $case: "present", value: true }, ignoreCase: false }, not: false },
          { name: "x-b", value: { kind: { $case: "regex", value: "1|2" }, ignoreCase: false }, not: true },
        ],
        query: [{ name: "q", value: { kind: { $case: "prefix", value: "z" }, ignoreCase: false } }],
        sourceNamespaces: ["front"],
        port: 80,
      },
    ]);
    expect(rules[0]?.backends[0]).toMatchObject({
      service: "shop/cart.shop.svc.cluster.local",
      port: 80,
      subset: "v2",
    });
  });

  it("tells faults, mirrors, origins and rewrites", () => {
    const [first] = routed(`[{
      fault: { delay: { fixedDelay: 1.5s, percentage: { value: 0.5 } }, abort: { httpStatus: 503, percentage: { value: 100 } } },
      mirrors: [{ destination: { host: cart }, percentage: { value: 10 } }, { destination: { host: gone } }],
      corsPolicy: { allowOrigins: [{ prefix: "https://" }], unmatchedPreflights: IGNORE },
      rewrite: { uriRegexRewrite: { match: "/(a)", rewrite: "/\\\\1" }, authority: other.example },
      route: [{ destination: { host: cart } }] }]`).rules;
    const kinds = new Map(first?.filters.map(({ kind }) => [kind?.$case, kind?.value]));
    expect(kinds.get("fault")).toMatchObject({
      delayMs: 1500,
      delayPerMillion: 5000,
      abortStatus: 503,
      abortPerMillion: 1_000_000,
    });
    expect(
      first?.filters.flatMap(({ kind }) => (kind?.$case === "mirror" ? [kind.value] : [])),
    ).toMatchObject([
      { perMillion: 100_000, all: false, backend: { service: "shop/cart.shop.svc.cluster.local", port: 80 } },
      { perMillion: 1_000_000, all: true, backend: { invalid: "BackendNotFound: gone" } },
    ]);
    expect(kinds.get("cors")).toMatchObject({
      allowOrigins: [{ kind: { $case: "prefix", value: "https://" } }],
      forwardUnmatched: false,
    });
    expect(kinds.get("rewrite")).toEqual({
      authority: "other.example",
      path: { kind: { $case: "regex", value: { pattern: "/(a)", substitution: "/\\1" } } },
    });
  });

  it("tries again as Istio does where it does not say, and not at all where it says so", () => {
    const [silent, none] = routed(`[
      { match: [{ uri: { exact: /a } }], route: [{ destination: { host: cart } }] },
      { route: [{ destination: { host: cart } }], retries: { attempts: 0 } }]`).rules;
    expect(silent?.retry).toMatchObject({
      attempts: 2,
      connectFailure: true,
      reset: false,
      grpcStatuses: [1, 14],
    });
    expect(none?.retry).toBeUndefined();
  });
});

describe("a DestinationRule", () => {
  it("is one policy of its service", () => {
    expect(policies(apply(rule))).toMatchObject([
      {
        sourceObject: "DestinationRule/shop/cart",
        maxRequests: 7,
        balance: TrafficPolicy_Balance.CONSISTENT_HASH,
        hash: { kind: { $case: "cookie", value: "user" }, cookieTtlS: 0 },
        ejection: { consecutiveErrors: 5, consecutiveGatewayErrors: 3 },
        subsets: [
          { name: "v1", workloadUids: ["Kubernetes//Pod/shop/a", "Kubernetes//Pod/shop/b"] },
          { name: "v2", workloadUids: [] },
        ],
      },
    ]);
  });

  it("follows a pod's labels with that policy alone, and is not told again for what changes nothing in it", () => {
    apply(rule);
    const change = apply(pod("b", "v2"));
    expect(change.configs.map(({ kind, name }) => `${kind} ${name}`)).toEqual([
      "traffic_policy shop/cart.shop.svc.cluster.local",
    ]);
    expect(policies(change)[0]?.subsets.map(({ workloadUids }) => workloadUids)).toEqual([
      ["Kubernetes//Pod/shop/a"],
      ["Kubernetes//Pod/shop/b"],
    ]);
    expect(apply(pod("b", "v2").replace("app: cart,", "app: cart, tier: one,")).configs).toEqual([]);
  });
});
