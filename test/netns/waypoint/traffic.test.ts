/** How requests reach a service's versions behind its waypoint: VirtualService and DestinationRule, from YAML on. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { eventually } from "../../helpers/eventually.js";
import { WaypointSite, type Answers } from "./site.js";

const site = new WaypointSite("wt", "/run/meltemi/waypoint-traffic-test");
const ip = "10.96.1.9";
const host = "versions.shop.svc.cluster.local";
const url = `http://${ip}/`;

function service(): string {
  return `
apiVersion: v1
kind: Service
metadata: { name: versions, namespace: shop, labels: { istio.io/use-waypoint: shop-wp } }
spec: { clusterIP: ${ip}, selector: { team: versions }, ports: [{ name: http, port: 80, targetPort: 8080 }] }
`;
}

/** Of cart (v1) and cart2 (v2), which are the endpoints of one service here. */
function rules(http: readonly object[], trafficPolicy: object = {}): void {
  const subsets = ["v1", "v2"].map((version) => ({ name: version, labels: { version } }));
  site.objects("traffic.yaml", [
    `apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: { name: versions, namespace: shop }\nspec: ${JSON.stringify({ host, subsets, trafficPolicy })}\n`,
    `apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: { name: versions, namespace: shop }\nspec: ${JSON.stringify({ hosts: [host], http })}\n`,
  ]);
}

const to = (subset?: string): object => ({ route: [{ destination: { host, ...(subset && { subset }) } }] });

const ask = (...more: readonly string[]): Promise<Answers> => site.ask("front", url, ...more);

async function onlyFrom(server: string): Promise<void> {
  await site.until(
    `answers of ${server} only`,
    () => ask("--requests", "8"),
    ({ servers }) => servers[server] === 8,
  );
}

beforeAll(async () => {
  await site.up();
  for (const [pod, version] of [
    ["cart", "v1"],
    ["cart2", "v2"],
  ] as const) {
    const labels = `app: ${pod}, team: versions, version: ${version} }`;
    site.objects(`${pod}.yaml`, [site.mesh.manifest(pod).replace(`app: ${pod} }`, labels)]);
  }
  site.objects("versions.yaml", [service()]);
  site.mesh.start();
  await site.mesh.ready("n1", "n2");
}, 60_000);
afterAll(() => site.down(), 60_000);

test("subsets of a DestinationRule are versions, chosen by header or by default", async () => {
  rules([{ match: [{ headers: { "x-canary": { exact: "yes" } } }], ...to("v2") }, to("v1")]);
  await onlyFrom("cart");
  expect((await ask("--header", "x-canary: yes", "--requests", "8")).servers).toEqual({ cart2: 8 });
  rules([to("v2")]);
  await onlyFrom("cart2");
});

test("a fault befalls whom the rule says and nobody else", async () => {
  const abort = { httpStatus: 418, percentage: { value: 100 } };
  rules([{ match: [{ headers: { "x-fault": { exact: "yes" } } }], fault: { abort }, ...to() }, to()]);
  await eventually(
    "the fault",
    async () => (await ask("--header", "x-fault: yes")).statuses["418"] === 1,
    30_000,
  );
  expect((await ask("--requests", "8")).statuses).toEqual({ "200": 8 });
});

test("a hashed header keeps a user at one endpoint, and users apart", async () => {
  rules([to()], { loadBalancer: { consistentHash: { httpHeaderName: "x-user" } } });
  const homes = new Set<string>();
  await eventually(
    "the hash",
    async () => {
      homes.clear();
      for (let user = 0; user < 12; user += 1) {
        const { servers, ok } = await ask("--header", `x-user: u${user}`, "--requests", "6");
        const home = Object.keys(servers);
        if (home.length !== 1 || ok !== 6) return false;
        homes.add(home[0] ?? "");
      }
      return true;
    },
    30_000,
  );
  expect([...homes].sort()).toEqual(["cart", "cart2"]);
});
