/** Waypoints as a person meets them: a Gateway starts one, a route and a policy work, and there is no way around it. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { eventually } from "../../helpers/eventually.js";
import { cart, rawCart, WaypointSite } from "./site.js";

const site = new WaypointSite("wp", "/run/meltemi/waypoint-test");
const url = `http://${cart}/`;
const ledgerUrl = "http://10.96.1.3/";

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

test("requests reach the service through its waypoint, whose connections they share", async () => {
  const answers = await site.ask("front", url, "--requests", "20", "--keepalive", "false");
  expect(answers.statuses).toEqual({ "200": 20 });
  expect(answers.servers).toEqual({ cart: 20 });
  expect(Object.keys(answers.clients)).toEqual([site.mesh.topology.pod("shop-wp").ip]);
});

test("a connection that is no HTTP passes the waypoint with its caller's own address", async () => {
  const answers = await site.ask("front", `http://${rawCart}/`, "--requests", "5", "--keepalive", "false");
  expect(answers.servers).toEqual({ cart: 5 });
  expect(Object.keys(answers.clients)).toEqual([site.mesh.topology.pod("front").ip]);
});

test("a header routes to another version, and an edited weight comes into force without a failed request", async () => {
  expect((await site.ask("front", url, "--header", "x-canary: yes", "--requests", "5")).servers).toEqual({
    cart2: 5,
  });
  const traffic = site.mesh.traffic("front");
  const editedMs = performance.now();
  site.route({ weights: [0, 1] });
  await site.until(
    "all requests at v2",
    () => site.ask("front", url, "--requests", "3"),
    ({ servers }) => servers["cart2"] === 3,
  );
  process.stdout.write(`weights in force ${Math.round(performance.now() - editedMs)} ms after the edit\n`);
  const seen = (await traffic.stop()) as unknown as { requests: number; ok: number };
  expect(seen.requests).toBeGreaterThan(0);
  expect(seen.ok).toBe(seen.requests);
  site.route({ weights: [1, 0] });
});

test("a policy on methods and paths refuses the wrong request with 403 and the wrong caller too", async () => {
  const principals = ["cluster.local/ns/shop/sa/front"];
  site.policy("readers", {
    targetRefs: [{ group: "", kind: "Service", name: "cart" }],
    rules: [
      { from: [{ source: { principals } }], to: [{ operation: { methods: ["GET"], paths: ["/ok*"] } }] },
    ],
  });
  const one = (from: string, path: string, ...more: readonly string[]): Promise<string> =>
    site.ask(from, `http://${cart}${path}`, ...more).then(({ statuses }) => Object.keys(statuses).join());
  await eventually("the policy", async () => (await one("front", "/not-ok")) === "403", 30_000);
  expect(await one("front", "/ok")).toBe("200");
  expect(await one("front", "/ok", "--method", "DELETE")).toBe("403");
  expect(await one("intruder", "/ok")).toBe("403");
  // What a policy sees is what the application would: no way around by another spelling.
  expect(await one("front", "/not-ok/../ok")).toBe("200");
  expect(await one("front", "/ok/../not-ok")).toBe("403");
  expect(await one("front", "/ok%2f..%2fnot-ok")).not.toBe("200");
  site.policy("readers", {
    targetRefs: [{ group: "", kind: "Service", name: "cart" }],
    rules: [{}],
  });
  await eventually(
    "the policy to let everything in",
    async () => (await one("intruder", "/x")) === "200",
    30_000,
  );
});

test("a service account's waypoint takes connections to its pods however they are addressed", async () => {
  const direct = `http://${site.mesh.topology.pod("ledger").ip}:8080/`;
  for (const way of [ledgerUrl, direct]) {
    const answers = await site.until(
      `an answer from ${way}`,
      () => site.ask("front", way),
      ({ ok }) => ok === 1,
    );
    expect(answers.servers, way).toEqual({ ledger: 1 });
  }
});

test("nobody comes around a service account's waypoint", async () => {
  const at = (pod: string): string => `http://${site.mesh.topology.pod(pod).ip}:8080/`;
  // A pod outside the mesh, in plaintext, is let in (PERMISSIVE) where there is no waypoint to pass.
  expect((await site.ask("outsider", at("cart2"))).ok).toBe(1);
  const answers = await site.ask("outsider", at("ledger"));
  expect(answers.ok).toBe(0);
  const log = join(site.mesh.state, "nodes/n1/logs/proxy.log");
  await eventually("its record", () => readFileSync(log, "utf8").includes('"reason":"waypoint_bypassed"'));
});

test("a waypoint that is away refuses, and serves again by itself", async () => {
  const pid = site.mesh.children().get("waypoint-shop.shop-wp") ?? 0;
  expect(pid).toBeGreaterThan(0);
  process.kill(pid, "SIGSTOP");
  try {
    const { ok } = await site.ask("front", url, "--timeout-ms", "1500", "--keepalive", "false");
    expect(ok, "no way around it").toBe(0);
  } finally {
    process.kill(pid, "SIGKILL");
  }
  const killedMs = performance.now();
  await site.until(
    "service again",
    () => site.ask("front", url, "--keepalive", "false"),
    ({ ok }) => ok === 1,
  );
  process.stdout.write(
    `waypoint served again ${Math.round(performance.now() - killedMs)} ms after its end\n`,
  );
});
