/** What the plugin finds out from the API while no agent answers. */
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { execaSync } from "execa";
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from "vitest";
import { wishLabels } from "../../../src/domain/enrolment.js";
import { answering } from "./fake-agent.js";
import { startApi, type FakeApi } from "./kubernetes.js";
import { callCni, type CniAnswer } from "./plugin.js";

const directory = "/run/meltemi/cni-api";
const socket = join(directory, "cni.sock");
const netns = "/run/netns/cni-api";
const [ours, theirs] = ["meltemi.io/mesh", "istio.io/dataplane-mode"];

let api: FakeApi;

beforeAll(() => {
  execaSync("ip", ["netns", "add", "cni-api"]);
});
afterAll(() => {
  execaSync("ip", ["netns", "del", "cni-api"]);
});
beforeEach(async () => {
  api = await startApi(directory);
});
afterEach(async () => {
  await api.close();
  rmSync(directory, { recursive: true });
});

function add(access: Record<string, unknown> = {}, fields: Record<string, unknown> = {}): Promise<CniAnswer> {
  const { server, caFile, tokenFile } = api;
  const config = {
    cniVersion: "1.0.0",
    name: "net",
    socket,
    prevResult: { ips: [] },
    timeoutMs: 1_000,
    kubernetes: { server, caFile, tokenFile, timeoutMs: 2_000, wish: wishLabels, ...access },
    ...fields,
  };
  return callCni({ verb: "ADD", config, netns, pod: "shop/cart", uid: "u1" });
}

const pod = (labels: Record<string, string> = {}, uid = "u1"): unknown =>
  api.objects.set("shop/pods/cart", { uid, labels });
const namespace = (labels: Record<string, string> = {}): unknown => api.objects.set("shop", { labels });

function expectRetry(answer: CniAnswer, words: string): void {
  expect(answer.json?.["code"], answer.stdout).toBe(11);
  expect(answer.json?.["msg"]).toContain(words);
}

it.each([
  ["neither asks", {}, {}, true],
  ["the namespace asks", {}, { [theirs]: "ambient" }, false],
  ["the namespace asks in our words", {}, { [ours]: "enabled" }, false],
  ["the pod asks", { [ours]: "enabled" }, {}, false],
  ["the pod declines", { [ours]: "disabled" }, { [theirs]: "ambient" }, true],
  ["the pod's first label decides", { [ours]: "disabled", [theirs]: "ambient" }, {}, true],
  ["labels say nothing", { [ours]: "perhaps" }, { [theirs]: "sidecar" }, true],
])("%s", async (_name, podLabels, namespaceLabels, starts) => {
  pod(podLabels);
  namespace(namespaceLabels);
  const answer = await add();
  if (starts) expect(answer.exitCode, answer.stdout).toBe(0);
  else expectRetry(answer, "its labels ask for the mesh");
  expect(api.asked[0]).toBe("shop/pods/cart");
});

it("asks where the agent does not know the pod, and not where it does", async () => {
  pod();
  namespace();
  const unknown = await answering(socket, 200, { decision: "unknown" });
  expect((await add()).exitCode).toBe(0);
  await unknown.close();
  expect(api.asked).toEqual(["shop/pods/cart", "shop"]);
  const knowing = await answering(socket, 503, { error: "not now" });
  expectRetry(await add(), "not now");
  await knowing.close();
  expect(api.asked).toHaveLength(2);
});

it("another pod of that name says nothing", async () => {
  pod({}, "another");
  namespace();
  expectRetry(await add(), "another pod of that name, with uid another");
});

it("a pod that the API does not know is not known", async () => {
  namespace();
  expectRetry(await add(), "it answered 404");
  expect((await add({}, { whenUnknown: "allow" })).exitCode).toBe(0);
});

it("an API that hangs is waited for within its time, in all", async () => {
  api.objects.set("shop/pods/cart", "hang");
  const answer = await add({ timeoutMs: 300 });
  expectRetry(answer, "no answer in time");
  expect(answer.tookMs).toBeLessThan(1_500);
});

it("an API that cannot be reached, or is not the one, says nothing", async () => {
  pod();
  namespace();
  expectRetry(await add({ server: "127.0.0.1:1" }), "Connection refused");
  expectRetry(await add({ serverName: "elsewhere" }), "certificate");
  const other = await startApi(join(directory, "other"));
  expectRetry(await add({ caFile: other.caFile }), "certificate");
  await other.close();
  writeFileSync(api.tokenFile, "another");
  expectRetry(await add(), "it answered 401");
  expectRetry(await add({ tokenFile: "/nonexistent" }), "/nonexistent");
  expectRetry(await add({ caFile: "/nonexistent" }), "/nonexistent");
});

it("a configuration that could not be bounded is refused", async () => {
  const answer = await add({ server: "kubernetes.default.svc:443" });
  expect([answer.json?.["code"], answer.json?.["msg"]]).toEqual([
    7,
    'kubernetes.server is "kubernetes.default.svc:443", expected ADDRESS:PORT, with an IP address',
  ]);
});
