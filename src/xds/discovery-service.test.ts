import { Client, credentials, Metadata, status } from "@grpc/grpc-js";
import { afterEach, describe, expect, test } from "vitest";
import { addressesOf, type BareClient, DiscoveryServer, namesOf } from "../../test/helpers/discovery.js";
import { eventually } from "../../test/helpers/eventually.js";
import {
  apply,
  authorizationPolicy,
  namespace,
  pod,
  remove,
  service,
} from "../../test/helpers/mesh-objects.js";
import { MeltemiError } from "../domain/error.js";
import { DeltaDiscoveryRequest } from "../gen/envoy/service/discovery/v3/ads.js";
import { addressType, authorizationType, workloadType } from "./resource.js";
import { discoveryServiceDefinition } from "./wire.js";

const shop = namespace("shop", { "istio.io/dataplane-mode": "ambient" });
const cart = service("shop", "cart", "10.96.0.1", { app: "cart" });
const cart1 = pod("shop", "cart-1", "10.0.0.1", { app: "cart" }, { nodeName: "n2" });
const cart2 = pod("shop", "cart-2", "10.0.0.2", { app: "cart" }, { nodeName: "n2" });
const web = pod("shop", "web", "10.0.1.1", { app: "web" }, { nodeName: "n1" });

const cartKey = "shop/cart.shop.svc.cluster.local";
const uid = (name: string): string => `Kubernetes//Pod/shop/${name}`;

let server: DiscoveryServer;
const clients: BareClient[] = [];

async function start(...parameters: ConstructorParameters<typeof DiscoveryServer>): Promise<DiscoveryServer> {
  server = await new DiscoveryServer(...parameters).listen();
  return server;
}

function connect(...parameters: Parameters<DiscoveryServer["connect"]>): BareClient {
  const client = server.connect(...parameters);
  clients.push(client);
  return client;
}

afterEach(() => {
  for (const client of clients.splice(0)) client.close();
  server.close();
});

/** Opens the on-demand subscription and takes its first answer: the node's own pods. */
function onDemand(node: string, ...names: string[]): BareClient {
  const client = connect(node);
  client.send(addressType, { resourceNamesSubscribe: names, resourceNamesUnsubscribe: ["*"] });
  return client;
}

describe("on demand", () => {
  test("a node is told of its own pods and of nothing else", async () => {
    (await start()).apply(...apply(shop, cart, cart1, web));
    const client = onDemand("n1");
    expect(namesOf(await client.next())).toEqual([uid("web")]);
  });

  test("a service brings its endpoints, and their later additions and removals", async () => {
    (await start()).apply(...apply(shop, cart, cart1));
    const client = onDemand("n1");
    await client.next();
    client.send(addressType, { resourceNamesSubscribe: ["/10.96.0.1"] });
    const answer = await client.next();
    expect(namesOf(answer)).toEqual([uid("cart-1"), cartKey]);
    expect(answer.resources.find(({ name }) => name === cartKey)?.aliases).toEqual(["/10.96.0.1"]);

    server.apply(...apply(cart2));
    expect(namesOf(await client.next())).toEqual([uid("cart-2")]);
    server.apply(remove(cart1));
    expect((await client.next()).removedResources).toEqual([uid("cart-1")]);
  });

  test("an address nobody has is answered negatively, and the answer is withdrawn when somebody has it", async () => {
    (await start()).apply(...apply(shop, cart, cart1));
    const client = onDemand("n1");
    await client.next();
    client.send(addressType, { resourceNamesSubscribe: ["/10.0.0.2"] });
    expect((await client.next()).removedResources).toEqual(["/10.0.0.2"]);

    server.apply(...apply(cart2));
    const withdrawn = await client.next();
    expect(withdrawn.resources.map(({ name, aliases }) => [name, aliases])).toEqual([
      [uid("cart-2"), ["/10.0.0.2"]],
    ]);
    server.apply(remove(cart2));
    expect((await client.next()).removedResources.sort()).toEqual(["/10.0.0.2", uid("cart-2")]);
  });

  test("an IPv6 address is asked for, answered, refused and given up as an IPv4 one is", async () => {
    const dual = pod(
      "shop",
      "cart-6",
      "fd00::6",
      { app: "cart" },
      { nodeName: "n2", ips: ["10.0.0.6", "fd00::6"] },
    );
    (await start()).apply(...apply(shop, cart));
    const client = onDemand("n1");
    await client.next();
    client.send(addressType, { resourceNamesSubscribe: ["/fd00::6"] });
    expect((await client.next()).removedResources).toEqual(["/fd00::6"]);
    server.apply(...apply(dual));
    const withdrawn = await client.next();
    expect(withdrawn.resources.map(({ name, aliases }) => [name, aliases])).toEqual([
      [uid("cart-6"), ["/10.0.0.6", "/fd00::6"]],
    ]);
    const workload = addressesOf(withdrawn).get(uid("cart-6"));
    if (workload?.$case !== "workload") throw new Error("not a workload");
    expect(workload.value.addresses.map(({ length }) => length)).toEqual([4, 16]);
    client.send(addressType, { resourceNamesUnsubscribe: ["/fd00::6"] });
    expect((await client.next()).removedResources).toEqual([uid("cart-6")]);
  });

  test("an address is one name however a client writes it, and is answered as it was asked for", async () => {
    (await start()).apply(...apply(shop, cart, cart1));
    const client = onDemand("n1");
    await client.next();
    const written = ["/::ffff:10.0.0.1", "/::FFFF:A00:1"];
    client.send(addressType, { resourceNamesSubscribe: [...written, "/FD00:0::9"] });
    const found = await client.next();
    expect(found.resources.map(({ name, aliases }) => [name, aliases])).toEqual([
      [uid("cart-1"), ["/10.0.0.1", ...written]],
    ]);
    expect(found.removedResources).toEqual(["/FD00:0::9"]);
    server.apply(...apply(pod("shop", "cart-9", "fd00::9", { app: "cart" }, { nodeName: "n2" })));
    const withdrawn = await client.next();
    expect(withdrawn.resources.map(({ aliases }) => aliases)).toEqual([["/fd00::9", "/FD00:0::9"]]);
    // Given up in one way, it is still asked for in the other; then in none.
    client.send(addressType, {
      resourceNamesUnsubscribe: [written[0] ?? ""],
      resourceNamesSubscribe: ["/10.9.9.9"],
    });
    expect((await client.next()).removedResources).toEqual(["/10.9.9.9"]);
    server.apply(...apply({ ...cart1, serviceAccount: "other" }));
    expect((await client.next()).resources.map(({ aliases }) => aliases)).toEqual([
      ["/10.0.0.1", written[1]],
    ]);
    client.send(addressType, { resourceNamesUnsubscribe: [written[1] ?? ""] });
    expect((await client.next()).removedResources).toEqual([uid("cart-1")]);
  });

  test("a client that writes one address in ever new ways is refused", async () => {
    (await start()).apply(...apply(shop));
    const client = onDemand("n1");
    await client.next();
    // The 32 ways to write five letters.
    const ways = Array.from({ length: 32 }, (_, bits) =>
      Array.from("abcde", (letter, index) => ((bits >> index) & 1 ? letter.toUpperCase() : letter)).join(""),
    );
    client.send(addressType, {
      resourceNamesSubscribe: ways.map((group) => `/fd00::1:${group.slice(0, 4)}:${group.slice(4)}`),
    });
    const error = await eventually("the end of the stream", () => client.error);
    expect(error.message).toMatch(/writes \/fd00::1:abcd:e in more than 16 ways/);
  });

  test("a pod asked for by address keeps being told of, and not after the last name for it is given up", async () => {
    (await start()).apply(...apply(shop, cart, cart1));
    const client = onDemand("n1", "/10.0.0.1");
    expect(namesOf(await client.next())).toEqual([uid("cart-1")]);
    client.send(addressType, { resourceNamesUnsubscribe: ["/10.0.0.1"] });
    // The client asked by address and holds the pod under its own name: that is taken back.
    expect((await client.next()).removedResources).toEqual([uid("cart-1")]);
    server.apply(...apply({ ...cart1, serviceAccount: "other" }));
    client.send(addressType, { resourceNamesSubscribe: ["/10.9.9.9"] });
    const next = await client.next();
    expect([namesOf(next), next.removedResources]).toEqual([[], ["/10.9.9.9"]]);
  });

  test("an endpoint that leaves the service is taken back, one that the node asked for itself is not", async () => {
    (await start()).apply(...apply(shop, cart, cart1, cart2));
    const client = onDemand("n1", cartKey, uid("cart-2"));
    expect(namesOf(await client.next())).toEqual([uid("cart-1"), uid("cart-2"), cartKey]);
    const moved = [cart1, cart2].map((one) => ({
      ...one,
      meta: { ...one.meta, labels: new Map([["app", "old"]]) },
    }));
    server.apply(...apply(...moved));
    const response = await client.next();
    expect(response.removedResources).toEqual([uid("cart-1")]);
    expect(namesOf(response)).toEqual([uid("cart-2")]);
  });

  test("nothing is answered before the first complete state", async () => {
    await start();
    const client = onDemand("n1", "/10.0.0.1");
    await eventually("the stream", () => server.service.streams.length === 1);
    expect(client.responses).toEqual([]);
    server.apply(...apply(shop, cart, cart1));
    const first = await client.next();
    expect([namesOf(first), first.removedResources]).toEqual([[uid("cart-1")], []]);
  });

  test("one pod's change reaches the node that asked and no other", async () => {
    (await start()).apply(...apply(shop, cart, cart1, web));
    const asked = onDemand("n1", cartKey);
    const other = onDemand("n3");
    await asked.next();
    await other.next();
    for (let round = 0; round < 20; round++) {
      server.apply(...apply({ ...cart1, ready: round % 2 === 1 }));
      const [[, address] = []] = addressesOf(await asked.next());
      expect(address?.$case === "workload" && address.value.status).toBe(round % 2 === 1 ? 0 : 1);
    }
    // The other stream is alive, and its next message is the answer to its own question.
    other.send(addressType, { resourceNamesSubscribe: ["/10.8.8.8"] });
    expect((await other.next()).removedResources).toEqual(["/10.8.8.8"]);
    expect(other.responses).toEqual([]);
  });
});

describe("reconnect", () => {
  test("what the client holds at the same version is not sent again, what is gone is removed", async () => {
    (await start()).apply(...apply(shop, cart, cart1, cart2, web));
    const first = onDemand("n1", cartKey);
    const held = Object.fromEntries(
      (await first.next()).resources.map(({ name, version }) => [name, version]),
    );
    first.close();
    server.apply(remove(cart2), ...apply({ ...cart1, serviceAccount: "other" }));

    const again = connect("n1");
    again.send(addressType, {
      resourceNamesSubscribe: [cartKey],
      resourceNamesUnsubscribe: ["*"],
      initialResourceVersions: held,
    });
    const response = await again.next();
    expect(namesOf(response)).toEqual([uid("cart-1")]);
    expect(response.removedResources).toEqual([uid("cart-2")]);
  });

  test("an address asked for before is answered again, though the resource is held", async () => {
    (await start()).apply(...apply(shop, cart, cart1));
    const version = server.snapshot.get(addressType, uid("cart-1"))?.version(addressType, "meltemi") ?? "";
    const client = connect("n1");
    client.send(addressType, {
      resourceNamesSubscribe: ["/10.0.0.1"],
      resourceNamesUnsubscribe: ["*"],
      initialResourceVersions: { [uid("cart-1")]: version },
    });
    expect(namesOf(await client.next())).toEqual([uid("cart-1")]);
  });

  test("versions are hashes of the content: equal on another replica", async () => {
    (await start()).apply(...apply(shop, cart, cart1, cart2));
    const one = await onDemand("n1", cartKey).next();
    const replica = new DiscoveryServer();
    replica.apply(...apply(cart2, cart1, cart, shop));
    for (const { name, version } of one.resources) {
      expect(replica.snapshot.get(addressType, name)?.version(addressType, "meltemi")).toBe(version);
    }
    replica.close();
  });
});

describe("acknowledgement", () => {
  test("a refusal is counted and told, and the next change is sent all the same", async () => {
    (await start()).apply(...apply(shop, cart, cart1));
    const client = connect("n1");
    client.acknowledge = false;
    client.send(addressType, { resourceNamesSubscribe: [cartKey], resourceNamesUnsubscribe: ["*"] });
    const { nonce } = await client.next();
    client.send(addressType, { responseNonce: nonce, errorDetail: { code: 3, message: "bad endpoint" } });
    await eventually("the refusal", () => server.service.streams[0]?.lastNack?.includes("bad endpoint"));
    expect((await server.metrics.nacks.get()).values[0]?.value).toBe(1);
    server.apply(...apply({ ...cart1, ready: false }));
    expect(namesOf(await client.next())).toEqual([uid("cart-1")]);
  });

  test("a client that does not answer gets the newest state in one message when it does", async () => {
    (await start()).apply(...apply(shop, cart, cart1));
    const client = connect("n1");
    client.acknowledge = false;
    client.send(addressType, { resourceNamesSubscribe: [cartKey], resourceNamesUnsubscribe: ["*"] });
    const { nonce } = await client.next();
    for (let round = 0; round < 1_000; round++)
      server.apply(...apply({ ...cart1, serviceAccount: `sa-${round}` }));
    expect(server.service.streams[0]?.subscriptions[0]?.pending).toBe(1);
    client.send(addressType, { responseNonce: nonce });
    const response = await client.next();
    const address = addressesOf(response).get(uid("cart-1"));
    expect(address?.$case === "workload" && address.value.serviceAccount).toBe("sa-999");
    expect(client.responses).toEqual([]);
  });

  test("a client that does not read holds up nobody else", async () => {
    (await start()).apply(...apply(shop, cart));
    const stuck = connect("n1", { agent: "", onDemand: false });
    stuck.stream.pause();
    stuck.send(addressType, {});
    const quick = onDemand("n2", cartKey);
    await quick.next();
    for (let round = 0; round < 200; round++) {
      server.apply(...apply({ ...cart1, serviceAccount: `sa-${round}` }));
      expect(namesOf(await quick.next())).toEqual([uid("cart-1")]);
    }
    const [, waiting] = [...server.service.streams].sort((a, b) => (b.node > a.node ? 1 : -1));
    expect(waiting?.subscriptions[0]?.pending).toBeLessThanOrEqual(1);
  });

  test("a resource subscribed to again is sent again", async () => {
    (await start()).apply(...apply(shop, cart, cart1));
    const client = onDemand("n1", uid("cart-1"));
    await client.next();
    client.send(addressType, { resourceNamesSubscribe: [uid("cart-1")] });
    expect(namesOf(await client.next())).toEqual([uid("cart-1")]);
  });
});

describe("a foreign proxy", () => {
  test("a wildcard client without a user agent is told everything, in ambient's own types", async () => {
    const affine = { ...cart, sessionAffinity: "ClientIP" as const };
    const audit = authorizationPolicy("shop", "audit", { action: "AUDIT" });
    const deny = authorizationPolicy("shop", "deny");
    (await start()).apply(...apply(shop, affine, cart1, web, audit, deny));
    const client = connect("n1", { agent: "", onDemand: false });
    client.send(addressType, {});
    client.send(authorizationType, {});
    const [one, two] = [await client.next(), await client.next()];
    const [addresses, policies] = one.typeUrl === addressType ? [one, two] : [two, one];
    expect(namesOf(addresses)).toEqual([uid("cart-1"), uid("web"), cartKey]);
    const address = addressesOf(addresses).get(cartKey);
    expect(address?.$case === "service" && address.value.extensions).toEqual([]);
    expect(namesOf(policies)).toEqual(["shop/deny"]);

    const own = connect("n2", { onDemand: false });
    own.send(addressType, {});
    const ours = addressesOf(await own.next()).get(cartKey);
    expect(ours?.$case === "service" && ours.value.extensions.map(({ name }) => name)).toEqual([
      "meltemi.v1.ServiceExtension",
    ]);
  });

  test("ambient's way to ask for nothing: subscribe and unsubscribe everything at once", async () => {
    (await start()).apply(...apply(shop, cart, cart1));
    const client = connect("n9", { agent: "", onDemand: false });
    client.send(addressType, { resourceNamesSubscribe: ["*"], resourceNamesUnsubscribe: ["*"] });
    expect(namesOf(await client.next())).toEqual([]);
    client.send(addressType, { resourceNamesSubscribe: ["/10.0.0.1"] });
    expect(namesOf(await client.next())).toEqual([uid("cart-1")]);
  });

  test("the Workload type has workloads only", async () => {
    (await start()).apply(...apply(shop, cart, cart1));
    const client = connect("n9", { agent: "", onDemand: false });
    client.send(workloadType, {});
    const response = await client.next();
    expect(namesOf(response)).toEqual([uid("cart-1")]);
    expect(response.resources[0]?.resource?.typeUrl).toBe(workloadType);
  });

  test("a large state comes in messages below 4 MiB", async () => {
    const pods = Array.from({ length: 20_000 }, (_, index) =>
      pod(
        "shop",
        `pod-${index}-${"x".repeat(60)}`,
        `10.${1 + (index >> 16)}.${(index >> 8) & 255}.${index & 255}`,
        {},
      ),
    );
    (await start()).apply(...apply(shop, ...pods));
    const client = connect("n9", { agent: "", onDemand: false });
    client.send(addressType, {});
    const seen = new Set<string>();
    let largest = 0;
    let messages = 0;
    while (seen.size < pods.length) {
      const response = await client.next();
      messages += 1;
      const bytes = response.resources.reduce(
        (sum, { name, resource }) => sum + name.length + (resource?.value.length ?? 0),
        0,
      );
      largest = Math.max(largest, bytes);
      for (const { name } of response.resources) seen.add(name);
    }
    expect(messages).toBeGreaterThan(1);
    expect(largest).toBeLessThan(4 * 1024 * 1024);
  });
});

describe("authorizations", () => {
  test("an on-demand node is told those of the mesh, of its pods' namespaces and those that select its pods", async () => {
    const bank = namespace("bank");
    const policies = [
      authorizationPolicy("istio-system", "mesh"),
      authorizationPolicy("shop", "space"),
      authorizationPolicy("bank", "space"),
      authorizationPolicy("shop", "web", { selector: new Map([["app", "web"]]) }),
      authorizationPolicy("shop", "cart", { selector: new Map([["app", "cart"]]) }),
    ];
    (await start()).apply(...apply(shop, bank, cart1, web, ...policies));
    const client = connect("n1");
    client.send(authorizationType, {});
    expect(namesOf(await client.next())).toEqual(["istio-system/mesh", "shop/space", "shop/web"]);

    server.apply(...apply(pod("bank", "teller", "10.0.1.2", {}, { nodeName: "n1" })));
    expect(namesOf(await client.next())).toEqual(["bank/space"]);
    server.apply(remove(web));
    expect((await client.next()).removedResources.sort()).toEqual(["shop/space", "shop/web"]);
  });

  test("a policy is sent before the workload that names it", async () => {
    (await start()).apply(...apply(shop, web));
    const client = connect("n1");
    client.send(addressType, { resourceNamesUnsubscribe: ["*"] });
    client.send(authorizationType, {});
    await client.next();
    await client.next();
    server.apply(...apply(authorizationPolicy("shop", "web", { selector: new Map([["app", "web"]]) })));
    expect(namesOf(await client.next())).toEqual(["shop/web"]);
    const address = addressesOf(await client.next()).get(uid("web"));
    expect(address?.$case === "workload" && address.value.authorizationPolicies).toEqual(["shop/web"]);
  });
});

describe("bad callers", () => {
  async function ended(client: BareClient): Promise<number | undefined> {
    return eventually("the end of the stream", () => client.error?.code);
  }

  test("who is not authenticated is refused, and nothing is read", async () => {
    await start(() => new MeltemiError("unauthenticated", "the token is unknown"));
    const client = connect("n1");
    client.send(addressType, {});
    expect(await ended(client)).toBe(status.UNAUTHENTICATED);
    expect(client.error?.message).toContain("the token is unknown");
    expect((await server.metrics.refused.get()).values[0]?.labels.reason).toBe("unauthenticated");
  });

  test("a node cannot ask as another node", async () => {
    await start(() => ({ node: "n1" }));
    const client = connect("n2");
    client.send(addressType, {});
    expect(await ended(client)).toBe(status.PERMISSION_DENIED);
  });

  test("an unknown type ends the stream with a reason, and other streams go on", async () => {
    (await start()).apply(...apply(shop, web));
    const client = connect("n1");
    client.send("type.googleapis.com/envoy.config.cluster.v3.Cluster" as typeof addressType, {});
    expect(await ended(client)).toBe(status.INVALID_ARGUMENT);
    expect(namesOf(await onDemand("n1").next())).toEqual([uid("web")]);
  });

  test.each([
    ["cut short", Buffer.from([0x1a, 0x40, 0x2a])],
    ["no message at all", Buffer.from([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])],
    [
      "without its node",
      Buffer.from(
        DeltaDiscoveryRequest.encode(DeltaDiscoveryRequest.fromPartial({ typeUrl: addressType })).finish(),
      ),
    ],
  ])("a first request that is %s ends its own stream and no other", async (_what, bytes) => {
    (await start()).apply(...apply(shop, web, cart, cart1));
    const other = onDemand("n1");
    await other.next();
    const raw = new Client(`127.0.0.1:${server.port}`, credentials.createInsecure());
    const same = (value: Buffer): Buffer => value;
    const stream = raw.makeBidiStreamRequest(
      discoveryServiceDefinition.deltaAggregatedResources.path,
      same,
      same,
      new Metadata(),
    );
    const code = new Promise<number>((resolve) =>
      stream.on("error", (error: Error & { code?: number }) => resolve(error.code ?? -1)),
    );
    stream.on("data", () => expect.unreachable("nothing is answered"));
    stream.write(bytes);
    expect([status.INTERNAL, status.INVALID_ARGUMENT]).toContain(await code);
    raw.close();
    server.apply(...apply({ ...web, serviceAccount: "other" }));
    expect(namesOf(await other.next())).toEqual([uid("web")]);
    await eventually("the stream's end", () => server.service.streams.length === 1);
  });
});
