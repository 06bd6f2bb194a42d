import { describe, expect, it, test } from "vitest";
import { parseAllDocuments } from "yaml";
import { apply, remove } from "../../helpers/mesh-objects.js";
import { SeededRandom } from "../../helpers/seeded-random.js";
import type { CompiledWorkload } from "../../../src/compile/compiled.js";
import { Compiler } from "../../../src/compile/compiler.js";
import { defaultCompileConfig } from "../../../src/compile/config.js";
import type { MeshObject } from "../../../src/domain/objects.js";
import { Resource } from "../../../src/gen/envoy/service/discovery/v3/ads.js";
import { decodeAll } from "../../../src/sources/decode/decode.js";
import { CompiledSnapshot } from "../../../src/xds/compiled-snapshot.js";
import { DiscoveryHub, type DeltaStream } from "../../../src/xds/delta-stream.js";
import { addressType, authorizationType } from "../../../src/xds/resource.js";
import type { DeltaRequest } from "../../../src/xds/subscription.js";
import { namedBy } from "../../../src/xds/waypoint/named.js";

function objects(text: string): MeshObject[] {
  return parseAllDocuments(text).flatMap((document) =>
    decodeAll(document.toJS(), { origin: "files" }).map((decoded) => {
      if (decoded.outcome === "understood") return decoded.object;
      throw new Error(JSON.stringify(decoded));
    }),
  );
}

const gateway = (name: string, ip: string): string => `
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: ${name}, namespace: shop, annotations: {meltemi.io/netns: ${name}}},
 spec: {gatewayClassName: meltemi-waypoint, addresses: [{value: ${ip}}], listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}`;
const service = (namespace: string, name: string, ip: string, waypoint = ""): string => `
---
{apiVersion: v1, kind: Service, metadata: {name: ${name}, namespace: ${namespace}, labels: {istio.io/use-waypoint: "${waypoint}"}},
 spec: {clusterIP: ${ip}, selector: {app: ${name}}, ports: [{name: http, port: 80}]}}`;
const pod = (namespace: string, app: string, index: number, version = "v1"): string => `
---
{apiVersion: v1, kind: Pod, metadata: {name: ${app}-${index}, namespace: ${namespace}, labels: {app: ${app}, version: ${version}, istio.io/dataplane-mode: ambient}},
 spec: {nodeName: n1, containers: [{name: c, image: x}]}, status: {podIP: 10.0.${namespace.length}.${app.length * 10 + index}, phase: Running}}`;
const route = (backends: readonly string[], mirror?: string): string => `
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: canary, namespace: shop},
 spec: {parentRefs: [{group: "", kind: Service, name: catalog}], rules: [{
   filters: [${mirror === undefined ? "" : `{type: RequestMirror, requestMirror: {backendRef: {name: ${mirror}, port: 80}}}`}],
   backendRefs: [${backends.map((one) => `{name: ${one.split("/")[1] ?? ""}, namespace: ${one.split("/")[0] ?? ""}, port: 80}`).join(", ")}]}]}}`;
const grant = `
---
{apiVersion: gateway.networking.k8s.io/v1beta1, kind: ReferenceGrant, metadata: {name: g, namespace: depot},
 spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}], to: [{group: "", kind: Service}]}}`;
const policy = (namespace: string, name: string, app?: string, version = "v1"): string => `
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: ${name}, namespace: ${namespace}},
 spec: {action: DENY, ${app === undefined ? "" : `selector: {matchLabels: {app: ${app}, version: ${version}}},`} rules: [{from: [{source: {namespaces: [x]}}]}]}}`;

const base = [
  gateway("front", "10.9.1.1"),
  gateway("other", "10.9.1.2"),
  service("shop", "catalog", "10.96.0.1", "front"),
  service("shop", "stock", "10.96.0.2"),
  service("depot", "crates", "10.96.0.3"),
  service("shop", "lone", "10.96.0.4", "other"),
  pod("shop", "catalog", 1),
  pod("shop", "stock", 1),
  pod("depot", "crates", 1),
  pod("shop", "lone", 1),
].join("");

const asking = (over: Partial<DeltaRequest> = {}): DeltaRequest => ({
  subscribe: ["*"],
  unsubscribe: [],
  initialVersions: new Map(),
  nonce: "",
  error: undefined,
  ...over,
});

/** A waypoint that takes all that it is told at once. */
class Told {
  readonly held = new Set<string>();
  readonly policies = new Set<string>();
  messages = 0;
  woken = 0;
  readonly stream: DeltaStream;

  constructor(hub: DiscoveryHub, waypoint: string) {
    const client = { node: "", dialect: "meltemi", onDemand: false, waypoint } as const;
    this.stream = hub.open(client, () => (this.woken += 1));
    for (const type of [addressType, authorizationType] as const) this.stream.request(type, asking());
    this.drain();
  }

  drain(): void {
    for (let response = this.stream.next(); response; response = this.stream.next()) {
      if (response.resources.length + response.removed.length > 0) this.messages += 1;
      const held = response.type === authorizationType ? this.policies : this.held;
      for (const bytes of response.resources) held.add(Resource.decode(bytes).name);
      for (const name of response.removed) held.delete(name);
      this.stream.request(
        response.type as typeof addressType,
        asking({ subscribe: [], nonce: response.nonce }),
      );
    }
  }

  /** As when no route leads any more to what is no longer its own. */
  settle(): void {
    this.drain();
    this.stream.release();
    this.drain();
  }
}

class Plane {
  readonly compiler = new Compiler(defaultCompileConfig);
  readonly snapshot = new CompiledSnapshot();
  readonly hub = new DiscoveryHub(this.snapshot, () => 0);

  apply(text: string): void {
    this.snapshot.applyChange(this.compiler.apply(apply(...objects(text))));
  }

  remove(text: string): void {
    this.snapshot.applyChange(this.compiler.apply(objects(text).map(remove)));
  }
}

const key = (namespace: string, name: string): string =>
  `${namespace}/${name}.${namespace}.svc.cluster.local`;
const uid = (namespace: string, name: string): string => `Kubernetes//Pod/${namespace}/${name}`;
const own = (name: string): string => `Kubernetes/gateway.networking.k8s.io/Gateway/shop/${name}`;

describe("what a waypoint is told of the mesh", () => {
  it("is itself, what it serves and where its routes lead, with the policies of all of that", () => {
    const plane = new Plane();
    plane.apply(base + grant + route(["depot/crates"], "stock"));
    plane.apply(policy("shop", "all") + policy("depot", "crates", "crates") + policy("depot", "all"));
    plane.apply(policy("elsewhere", "all") + policy("shop", "lone", "lone") + policy("istio-system", "mesh"));
    const front = new Told(plane.hub, "shop/front");
    expect([...front.held].sort()).toEqual(
      [
        own("front"),
        key("shop", "catalog"),
        uid("shop", "catalog-1"),
        key("shop", "stock"),
        uid("shop", "stock-1"),
        key("depot", "crates"),
        uid("depot", "crates-1"),
      ].sort(),
    );
    expect([...front.policies].sort()).toEqual([
      "depot/all",
      "depot/crates",
      "istio-system/mesh",
      "shop/all",
    ]);
    const other = new Told(plane.hub, "shop/other");
    expect([...other.held].sort()).toEqual([own("other"), key("shop", "lone"), uid("shop", "lone-1")].sort());
    expect([...other.policies].sort()).toEqual(["istio-system/mesh", "shop/all", "shop/lone"]);
  });

  it("is not changed, nor is it woken, by a pod elsewhere", () => {
    const plane = new Plane();
    plane.apply(base);
    const front = new Told(plane.hub, "shop/front");
    const { woken, messages } = front;
    plane.apply(pod("depot", "crates", 2) + pod("shop", "lone", 2));
    front.drain();
    expect([front.woken, front.messages]).toEqual([woken, messages]);
    plane.apply(pod("shop", "catalog", 2));
    expect(front.woken).toBe(woken + 1);
    front.drain();
    expect(front.held).toContain(uid("shop", "catalog-2"));
  });

  it("follows a route: a new backend comes at once, the old one goes when it is released", () => {
    const plane = new Plane();
    plane.apply(base + grant + policy("depot", "all") + route(["shop/stock"]));
    const front = new Told(plane.hub, "shop/front");
    expect(front.policies).not.toContain("depot/all");
    plane.apply(route(["depot/crates"]));
    front.drain();
    expect(front.policies).toContain("depot/all");
    expect([...front.held]).toEqual(
      expect.arrayContaining([
        key("depot", "crates"),
        uid("depot", "crates-1"),
        key("shop", "stock"),
        uid("shop", "stock-1"),
      ]),
    );
    front.settle();
    expect(front.held).not.toContain(key("shop", "stock"));
    expect(front.held).not.toContain(uid("shop", "stock-1"));
    plane.apply(route(["shop/stock"]));
    plane.apply(route(["depot/crates"]));
    front.settle();
    expect(front.held).toContain(key("depot", "crates"));
    plane.apply(route(["shop/stock"]));
    front.settle();
    expect(front.held).not.toContain(key("depot", "crates"));
    expect(front.policies, "a policy that is there is not taken back").toContain("depot/all");
    plane.remove(policy("depot", "all"));
    front.drain();
    expect(front.policies).not.toContain("depot/all");
  });

  it("keeps what it asked for itself", () => {
    const plane = new Plane();
    plane.apply(base + grant + route(["shop/stock"]));
    const front = new Told(plane.hub, "shop/front");
    front.stream.request(addressType, asking({ subscribe: [key("shop", "stock"), key("shop", "lone")] }));
    front.drain();
    expect(front.held).toContain(uid("shop", "lone-1"));
    plane.apply(route(["depot/crates"]));
    front.settle();
    expect(front.held).toContain(key("shop", "stock"));
    const over = { subscribe: [], unsubscribe: [key("depot", "crates")] };
    front.stream.request(addressType, asking(over));
    plane.apply(pod("depot", "crates", 3));
    front.settle();
    expect(front.held, "it concerns it").toContain(uid("depot", "crates-3"));
  });
});

/** By the plain rule, over everything that is compiled. */
function required(compiler: Compiler, waypoint: string): { names: Set<string>; policies: Set<string> } {
  const all = [...compiler.all()];
  const named = new Set(
    all.flatMap((one) =>
      one.type === "waypoint_config" && one.waypoints.includes(waypoint) ? namedBy(one) : [],
    ),
  );
  const workloads = all.filter((one): one is CompiledWorkload => one.type === "workload");
  const members = workloads.filter(
    ({ uid: name, services, waypointInstance }) =>
      named.has(name) || waypointInstance === waypoint || [...services.keys()].some((one) => named.has(one)),
  );
  const services = all.filter((one) => one.type === "service" && named.has(one.key));
  const policies = all.filter(
    (one) =>
      one.type === "authorization" &&
      (one.scope === "global" ||
        members.some((member) =>
          one.scope === "namespace" ? member.namespace === one.namespace : member.policies.includes(one.key),
        )),
  );
  const nameOf = (one: (typeof all)[number]): string =>
    one.type === "workload" ? one.uid : one.type === "waypoint_config" ? one.name : one.key;
  return {
    names: new Set([...members, ...services].map(nameOf)),
    policies: new Set(policies.map(nameOf)),
  };
}

test.each(Array.from({ length: 30 }, (_, seed) => seed + 1))(
  "seed %i: whatever changes, it has what its configuration leads to and every policy of that",
  (seed) => {
    const random = new SeededRandom(seed);
    const pick = <T>(list: readonly T[]): T => list[Math.floor(random.uniform() * list.length)]!;
    const plane = new Plane();
    plane.apply(base);
    const front = new Told(plane.hub, "shop/front");
    const anything: readonly (() => string)[] = [
      () => route([pick(["shop/stock", "depot/crates", "shop/lone"])], pick([undefined, "stock", "lone"])),
      () => grant,
      () => service("shop", pick(["catalog", "stock", "lone"]), "10.96.0.9", pick(["front", "other", ""])),
      () => service("depot", "crates", "10.96.0.3", ""),
      () =>
        pod(
          pick(["shop", "depot"]),
          pick(["catalog", "stock", "crates", "lone"]),
          1 + Math.floor(random.uniform() * 3),
          pick(["v1", "v2"]),
        ),
      () => policy(pick(["shop", "depot", "elsewhere"]), "all"),
      () => policy(pick(["shop", "depot"]), "some", pick(["catalog", "stock", "crates"]), pick(["v1", "v2"])),
    ];
    for (let step = 0; step < 60; step++) {
      if (random.uniform() < 0.3) plane.remove(pick(anything)());
      else plane.apply(pick(anything)());
      if (random.uniform() < 0.5) continue;
      front.drain();
      const now = required(plane.compiler, "shop/front");
      expect([...now.names].filter((name) => !front.held.has(name))).toEqual([]);
      expect([...now.policies].filter((name) => !front.policies.has(name))).toEqual([]);
      front.settle();
      expect([...front.held].sort()).toEqual([...now.names].sort());
    }
    const again = new Told(plane.hub, "shop/front");
    const now = required(plane.compiler, "shop/front");
    again.settle();
    expect([...again.held].sort()).toEqual([...now.names].sort());
    expect([...again.policies].sort()).toEqual([...now.policies].sort());
  },
);
