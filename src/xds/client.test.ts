import { Metadata, credentials } from "@grpc/grpc-js";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { DiscoveryServer } from "../../test/helpers/discovery.js";
import { eventually } from "../../test/helpers/eventually.js";
import {
  apply,
  authorizationPolicy,
  namespace,
  pod,
  remove,
  service,
} from "../../test/helpers/mesh-objects.js";
import { RecordingLogger } from "../../test/helpers/recording-logger.js";
import type { MeltemiError } from "../domain/error.js";
import { systemClock } from "../platform/clock.js";
import { systemRandom } from "../platform/random.js";
import { DiscoveryClient, type DiscoveryConsumer } from "./client.js";
import type { DiscoveryUpdate, Rejection } from "./client-state.js";
import { addressType, authorizationType } from "./resource.js";

const shop = namespace("shop", { "istio.io/dataplane-mode": "ambient" });
const cart = service("shop", "cart", "10.96.0.1", { app: "cart" });
const cart1 = pod("shop", "cart-1", "10.0.0.1", { app: "cart" }, { nodeName: "n2" });
const cart2 = pod("shop", "cart-2", "10.0.0.2", { app: "cart" }, { nodeName: "n2" });
const cartKey = "shop/cart.shop.svc.cluster.local";
const uid = (name: string): string => `Kubernetes//Pod/shop/${name}`;

/** Keeps what it is told; refuses what it is told to refuse. */
class Consumer implements DiscoveryConsumer {
  readonly updates: DiscoveryUpdate[] = [];
  readonly refuse = new Set<string>();
  readonly events: string[] = [];

  update(update: DiscoveryUpdate): readonly Rejection[] {
    this.updates.push(update);
    const refused = update.resources.filter(({ name }) => this.refuse.has(name));
    return refused.map(({ name }) => ({ name, reason: "not wanted" }));
  }

  connected(): void {
    this.events.push("connected");
  }

  disconnected(error: MeltemiError): void {
    this.events.push(`disconnected: ${error.code}`);
  }

  /** Waits for the next update of the type. */
  async next(type: string): Promise<{ readonly names: string[]; readonly removed: string[] }> {
    const update = await eventually(`an update of ${type}`, () => {
      const index = this.updates.findIndex((one) => one.type === type);
      return index < 0 ? undefined : this.updates.splice(index, 1)[0];
    });
    return { names: update.resources.map(({ name }) => name).sort(), removed: [...update.removed].sort() };
  }
}

let server: DiscoveryServer;
let consumer: Consumer;
let client: DiscoveryClient;
let stop: AbortController;
let running: Promise<void>;

beforeEach(async () => {
  server = await new DiscoveryServer().listen();
  server.apply(...apply(shop, cart, cart1));
  consumer = new Consumer();
  client = new DiscoveryClient({
    node: {
      id: "ztunnel~127.0.0.1~n1.mesh~mesh.svc.cluster.local",
      cluster: "",
      buildVersion: "",
      userAgentName: "meltemi-node",
      metadata: { NODE_NAME: "n1", MELTEMI_ON_DEMAND: "true" },
    },
    upstream: () => {
      const metadata = new Metadata();
      metadata.set("node", "n1");
      const target = `127.0.0.1:${server.port}`;
      return Promise.resolve({ target, credentials: credentials.createInsecure(), metadata, options: {} });
    },
    consumer,
    clock: systemClock,
    random: systemRandom,
    logger: new RecordingLogger(),
  });
  client.state.watch(addressType, false);
  stop = new AbortController();
  running = client.run(stop.signal);
});

afterEach(async () => {
  stop.abort();
  await running;
  server.close();
});

async function restart(): Promise<void> {
  const { port } = server;
  server.close();
  server = await new DiscoveryServer().listen(port);
}

describe("the discovery client", () => {
  test("names asked for in one turn become one request, and later ones follow", async () => {
    await consumer.next(addressType);
    client.subscribe(addressType, "/10.96.0.1");
    client.subscribe(addressType, "/10.9.9.9");
    expect(await consumer.next(addressType)).toEqual({
      names: [uid("cart-1"), cartKey],
      removed: ["/10.9.9.9"],
    });
    server.apply(...apply(cart2));
    expect(await consumer.next(addressType)).toEqual({ names: [uid("cart-2")], removed: [] });
    client.unsubscribe(addressType, "/10.96.0.1");
    expect(await consumer.next(addressType)).toEqual({
      names: [],
      removed: [uid("cart-1"), uid("cart-2"), cartKey],
    });
  });

  test("after a lost connection only what changed is sent", async () => {
    await consumer.next(addressType);
    client.subscribe(addressType, cartKey);
    expect((await consumer.next(addressType)).names).toEqual([uid("cart-1"), cartKey]);
    await restart();
    server.apply(...apply(shop, cart, cart2));
    expect(await consumer.next(addressType)).toEqual({ names: [uid("cart-2")], removed: [uid("cart-1")] });
    expect(consumer.events).toEqual(["connected", "disconnected: unavailable", "connected"]);
  });

  test("a service that vanished while away is answered negatively, and its endpoints are taken back", async () => {
    await consumer.next(addressType);
    client.subscribe(addressType, cartKey);
    await consumer.next(addressType);
    await restart();
    server.apply(...apply(shop, cart1));
    expect(await consumer.next(addressType)).toEqual({ names: [], removed: [uid("cart-1"), cartKey] });
    server.apply(...apply(cart));
    expect((await consumer.next(addressType)).names).toEqual([uid("cart-1"), cartKey]);
  });

  test("what the consumer refuses is told to the server, and not claimed after a reconnect", async () => {
    consumer.refuse.add(uid("cart-1"));
    await consumer.next(addressType);
    client.subscribe(addressType, cartKey);
    await consumer.next(addressType);
    await eventually("the refusal", () => server.service.streams[0]?.lastNack?.includes("not wanted"));
    consumer.refuse.clear();
    await restart();
    server.apply(...apply(shop, cart, cart1));
    expect(await consumer.next(addressType)).toEqual({ names: [uid("cart-1")], removed: [] });
  });

  test("a type watched as a whole is followed through a reconnect", async () => {
    client.state.watch(authorizationType, true);
    client.flush();
    expect(await consumer.next(authorizationType)).toEqual({ names: [], removed: [] });
    const policy = authorizationPolicy("istio-system", "mesh");
    server.apply(...apply(policy));
    expect((await consumer.next(authorizationType)).names).toEqual(["istio-system/mesh"]);
    await restart();
    server.apply(...apply(shop, cart, authorizationPolicy("istio-system", "other")));
    expect(await consumer.next(authorizationType)).toEqual({
      names: ["istio-system/other"],
      removed: ["istio-system/mesh"],
    });
    server.apply(remove(authorizationPolicy("istio-system", "other")));
    expect((await consumer.next(authorizationType)).removed).toEqual(["istio-system/other"]);
  });
});
