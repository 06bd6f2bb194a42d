/** Over a real stream: in which order a waypoint is told that a service is no longer its own. */
import { afterEach, expect, test } from "vitest";
import { decodeText } from "../../../src/sources/decode/text.js";
import { addressType, type TypeUrl } from "../../../src/xds/resource.js";
import { type ConfigType, configTypeOf } from "../../../src/xds/waypoint/config-type.js";
import { DiscoveryServer, type BareClient } from "../../helpers/discovery.js";
import { eventually } from "../../helpers/eventually.js";
import { apply } from "../../helpers/mesh-objects.js";

const gateway = (name: string, ip: string): string => `
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: ${name}, namespace: shop},
 spec: {gatewayClassName: meltemi-waypoint, addresses: [{value: ${ip}}], listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}`;
const service = (waypoint: string): string => `
---
{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop, labels: {istio.io/use-waypoint: ${waypoint}}},
 spec: {clusterIP: 10.96.0.1, selector: {app: cart}, ports: [{name: http, port: 80}]}}`;
const policy = `
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: guard, namespace: shop},
 spec: {targetRefs: [{group: "", kind: Service, name: cart}], action: DENY, rules: [{}]}}`;

const cart = "shop/cart.shop.svc.cluster.local";
const server = new DiscoveryServer(() => ({ node: "", waypoint: "shop/one" }));
let client: BareClient | undefined;

afterEach(() => {
  client?.close();
  server.close();
});

function put(text: string): void {
  const found = decodeText(text, "input.yaml", { origin: "files" }).objects.map(({ decoded }) => {
    if (decoded.outcome !== "understood") throw new Error(JSON.stringify(decoded.problems));
    return decoded.object;
  });
  server.apply(...apply(...found));
}

test("a service that moves to another waypoint leaves the first before its policies do", async () => {
  await server.listen();
  put(gateway("one", "10.9.1.1") + gateway("two", "10.9.1.2") + service("one") + policy);
  client = server.connect("", { onDemand: false });
  const types: (TypeUrl | ConfigType)[] = [addressType, configTypeOf.request_policy, configTypeOf.served];
  for (const type of types) client.send(type, { resourceNamesSubscribe: ["*"] });
  const { responses } = client;
  const told = await eventually("the first state", () => {
    const names = responses.flatMap(({ typeUrl, resources }) => resources.map(({ name }) => [typeUrl, name]));
    return names.length >= 3 && names.some(([type]) => type === configTypeOf.served) ? names : undefined;
  });
  expect(told).toContainEqual([configTypeOf.request_policy, "shop/guard"]);
  expect(told).toContainEqual([addressType, cart]);
  responses.splice(0);
  put(service("two"));
  const removed = await eventually("the policy to be taken back", () => {
    const all = responses.flatMap(({ typeUrl, removedResources }) =>
      removedResources.map((name) => [typeUrl, name]),
    );
    return all.some(([type]) => type === configTypeOf.request_policy) ? all : undefined;
  });
  expect(removed).toEqual([
    [configTypeOf.served, cart],
    [addressType, cart],
    [configTypeOf.request_policy, "shop/guard"],
  ]);
});
