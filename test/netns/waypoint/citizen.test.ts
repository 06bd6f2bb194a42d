/** A waypoint as a part of the mesh: it follows the trust of all, and can be scraped as any other part. */
import { join } from "node:path";
import { execa } from "execa";
import { afterAll, beforeAll, expect, test } from "vitest";
import { callUnixJson } from "../../../src/platform/unix-http-client.js";
import { eventually } from "../../helpers/eventually.js";
import { cart, WaypointSite } from "./site.js";

const site = new WaypointSite("wc", "/run/meltemi/waypoint-citizen");
const url = `http://${cart}/`;

interface CaStatus {
  readonly phase: string;
  readonly version: number;
  readonly roots: readonly { readonly serial: string }[];
}

interface Certificate {
  readonly chain: readonly { readonly serial: string }[];
  readonly roots: readonly { readonly serial: string }[];
}

beforeAll(async () => {
  await site.up();
  site.mesh.start();
  await site.mesh.ready("n1", "n2");
  await site.until(
    "a request through the waypoint",
    () => site.ask("front", url),
    ({ ok }) => ok === 1,
  );
}, 60_000);
afterAll(() => site.down(), 60_000);

const runDir = (): string => join(site.mesh.run, "waypoints", "shop.shop-wp");

async function certificate(): Promise<Certificate> {
  const socketPath = join(runDir(), "proxy-admin.sock");
  const [held] = (await callUnixJson({ socketPath, path: "/certificates" })) as Certificate[];
  if (!held) throw new Error("the waypoint holds no certificate");
  return held;
}

test("the root rotates under load, waypoints included, and no request fails", async () => {
  const before = await site.mesh.cli<CaStatus>("ca", "status");
  const held = await certificate();
  const traffic = site.mesh.traffic("front");
  await site.mesh.cli("ca", "rotate", "root");
  // It waits for everybody who holds a certificate: with one that renews at half its life it would take hours.
  const after = await eventually(
    "the rotation to end",
    async () => {
      const now = await site.mesh.cli<CaStatus>("ca", "status");
      return now.phase === "stable" && now.version > before.version && now;
    },
    30_000,
  );
  const renewed = await certificate();
  const seen = await traffic.stop();
  expect(after.roots.map(({ serial }) => serial)).not.toEqual(before.roots.map(({ serial }) => serial));
  expect(renewed.chain[0]?.serial).not.toBe(held.chain[0]?.serial);
  expect(renewed.roots.map(({ serial }) => serial.replaceAll(":", ""))).toEqual(
    after.roots.map(({ serial }) => serial),
  );
  expect(seen.requests).toBeGreaterThan(20);
  expect(seen.ok).toBe(seen.requests);
}, 60_000);

test("its requests are scraped from its own address, with the names that dashboards know", async () => {
  const { ip } = site.mesh.topology.pod("shop-wp");
  await site.ask("front", url, "--requests", "3");
  const scrape = async (path: string): Promise<string> => {
    const node = site.mesh.topology.nodes[0]?.netns ?? "";
    const args = [`--net=/run/netns/${node}`, "--", "curl", "-sf", `http://${ip}:15020${path}`];
    return (await execa("nsenter", args)).stdout;
  };
  expect(await scrape("/healthz/ready")).toContain('"ready":true');
  const text = await eventually("its counts", async () => {
    const metrics = await scrape("/stats/prometheus");
    return metrics.includes("istio_requests_total{") && metrics;
  });
  const line = text.split("\n").find((one) => one.startsWith("istio_requests_total{")) ?? "";
  const pairs = [...line.matchAll(/(\w+)="([^"]*)"/g)].map(([, name, value]) => [name ?? "", value ?? ""]);
  const labels = Object.fromEntries(pairs) as Readonly<Record<string, string>>;
  expect(labels).toMatchObject({
    reporter: "waypoint",
    source_workload: "front",
    source_workload_namespace: "shop",
    source_principal: "spiffe://cluster.local/ns/shop/sa/front",
    destination_workload: "cart",
    destination_principal: "spiffe://cluster.local/ns/shop/sa/cart",
    destination_service: "cart.shop.svc.cluster.local",
    destination_service_name: "cart",
    destination_service_namespace: "shop",
    request_protocol: "http",
    response_code: "200",
    response_flags: "-",
    connection_security_policy: "mutual_tls",
  });
  for (const family of [
    "istio_request_duration_milliseconds_bucket",
    "istio_request_bytes",
    "istio_response_bytes",
  ])
    expect(text, family).toContain(family);
});

test("it may do nothing but carry connections", async () => {
  const pid = site.mesh.children().get("waypoint-shop.shop-wp") ?? 0;
  const { stdout } = await execa("cat", [`/proc/${pid}/status`]);
  for (const set of ["CapPrm", "CapEff", "CapBnd", "CapAmb"])
    expect(new RegExp(`^${set}:\\s+0+$`, "m").test(stdout), `${set}\n${stdout}`).toBe(true);
  expect(stdout).toMatch(/^Seccomp:\s+2$/m);
});
