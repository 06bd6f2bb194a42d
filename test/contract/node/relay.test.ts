import { credentials, Metadata, Server, ServerCredentials } from "@grpc/grpc-js";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Registry } from "prom-client";
import { describe, expect, it, onTestFinished } from "vitest";
import { DiscoveryRelay } from "../../../src/node/relay/discovery-relay.js";
import { LastGoodFile } from "../../../src/node/relay/last-good.js";
import { systemClock } from "../../../src/platform/clock.js";
import { systemFiles } from "../../../src/platform/files.js";
import { DiscoveryHub } from "../../../src/xds/delta-stream.js";
import { DiscoveryMetrics } from "../../../src/xds/discovery-metrics.js";
import { DiscoveryService } from "../../../src/xds/discovery-service.js";
import { addressType, authorizationType } from "../../../src/xds/resource.js";
import { discoveryServiceDefinition } from "../../../src/xds/wire.js";
import { BareClient, DiscoveryServer, namesOf } from "../../helpers/discovery.js";
import { eventually } from "../../helpers/eventually.js";
import { apply, authorizationPolicy, namespace, pod, remove } from "../../helpers/mesh-objects.js";
import { RecordingLogger } from "../../helpers/recording-logger.js";
import { scratchDirectory } from "../../helpers/scratch.js";
import { steadyRandom } from "../../helpers/seeded-random.js";

const local = "Kubernetes//Pod/default/local";
const remote = "Kubernetes//Pod/default/remote";
const remotePod = pod("default", "remote", "10.0.0.2", {}, { nodeName: "n2" });
const mesh = apply(
  namespace("default", { "istio.io/dataplane-mode": "ambient" }),
  pod("default", "local", "10.0.0.1", {}),
  remotePod,
);

async function controlPlane(port = 0): Promise<DiscoveryServer> {
  const server = await new DiscoveryServer(() => ({ node: "n1" })).listen(port);
  server.apply(...mesh);
  onTestFinished(() => server.close());
  return server;
}

/** A relay over loopback: its upstream at `port`, its data planes as bare clients. */
async function startRelay(port: number, directory = scratchDirectory()) {
  const file = join(directory, "last-good.json");
  const log = new RecordingLogger();
  const relay = new DiscoveryRelay({
    node: "n1",
    clusterId: "Kubernetes",
    address: `127.0.0.1:${port}`,
    upstream: () =>
      Promise.resolve({
        target: `127.0.0.1:${port}`,
        credentials: credentials.createInsecure(),
        metadata: new Metadata(),
        options: {},
      }),
    lastGood: new LastGoodFile(systemFiles, systemClock, file),
    clock: systemClock,
    random: steadyRandom(),
    log,
    upstreamGraceMs: 200,
    lingerMs: 300,
    saveDelayMs: 10,
  });
  const hub = new DiscoveryHub(relay.cache, () => systemClock.monotonic());
  const service = new DiscoveryService({
    hub,
    authenticate: () => ({ node: "n1" }),
    metrics: new DiscoveryMetrics(new Registry()),
    clock: systemClock,
    logger: log,
    onAnswer: (response, answer) => relay.answered(response, answer),
  });
  const server = new Server();
  server.addService(discoveryServiceDefinition, service.implementation);
  const bound = await new Promise<number>((resolve, reject) =>
    server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, at) =>
      error ? reject(error) : resolve(at),
    ),
  );
  const end = new AbortController();
  const running = relay.run(end.signal);
  const stop = async (): Promise<void> => {
    end.abort();
    server.forceShutdown();
    await running;
  };
  onTestFinished(stop);
  const dataPlane = (): BareClient => {
    const client = new BareClient(bound, "n1", "meltemi-proxy", true);
    onTestFinished(() => client.close());
    return client;
  };
  const saved = async (): Promise<
    { addresses: string[]; authorizations: string[]; negative: string[] } | undefined
  > => {
    const text = await systemFiles.readIfPresent(file);
    return text === undefined
      ? undefined
      : (JSON.parse(text.toString()) as Awaited<ReturnType<typeof saved>>);
  };
  return { relay, log, dataPlane, saved, stop, directory };
}

const open = (client: BareClient, names: readonly string[] = [], held: Record<string, string> = {}): void => {
  client.send(authorizationType, { resourceNamesSubscribe: ["*"] });
  client.send(addressType, {
    resourceNamesSubscribe: [...names],
    resourceNamesUnsubscribe: ["*"],
    initialResourceVersions: held,
  });
};
const demand = (client: BareClient, ...names: string[]): void =>
  client.send(addressType, { resourceNamesSubscribe: names });

/** All addresses and removals that a client has been told, in the order of arrival. */
function told(client: BareClient): { added: string[]; removed: string[] } {
  const responses = client.responses.filter(({ typeUrl }) => typeUrl === addressType);
  return {
    added: responses.flatMap(namesOf),
    removed: responses.flatMap(({ removedResources }) => removedResources),
  };
}
const hears = (client: BareClient, what: "added" | "removed", name: string) =>
  eventually(`${name} to be ${what}`, () => told(client)[what].includes(name));

/** Waits for that many failed attempts to reach the control plane: later than grace and linger. */
const lost = (log: RecordingLogger, times: number) =>
  eventually(
    "attempts to connect",
    () => log.messages.filter((message) => message === "discovery stream lost").length >= times,
  );

describe("the discovery relay", () => {
  it("passes demands up and answers down, by name and by address", async () => {
    const upstream = await controlPlane();
    const { dataPlane } = await startRelay(upstream.port);
    const client = dataPlane();
    open(client);
    await hears(client, "added", local);
    expect(told(client).added).not.toContain(remote);
    demand(client, "/10.0.0.2");
    await hears(client, "added", remote);
    demand(client, "/10.9.9.9");
    await hears(client, "removed", "/10.9.9.9");
  });

  it("withdraws a negative answer when the address comes to be, and passes on removals", async () => {
    const upstream = await controlPlane();
    const { dataPlane } = await startRelay(upstream.port);
    const client = dataPlane();
    open(client, ["/10.0.0.3"]);
    await hears(client, "removed", "/10.0.0.3");
    const late = pod("default", "late", "10.0.0.3", {}, { nodeName: "n2" });
    upstream.apply(...apply(late));
    await hears(client, "added", "Kubernetes//Pod/default/late");
    upstream.apply(remove(late));
    await hears(client, "removed", "Kubernetes//Pod/default/late");
  });

  it("never makes up an answer: without the control plane and without a last good state everything waits", async () => {
    const { dataPlane, log } = await startRelay(1);
    const client = dataPlane();
    open(client, ["/10.0.0.2"]);
    await lost(log, 4);
    expect(client.responses).toEqual([]);
  });

  it("starts from the last good state without the control plane; a new demand waits until it is back", async () => {
    const upstream = await controlPlane();
    const first = await startRelay(upstream.port);
    const before = first.dataPlane();
    open(before, ["/10.0.0.2", "/10.9.9.9"]);
    await hears(before, "added", remote);
    await hears(before, "removed", "/10.9.9.9");
    await eventually("it to be saved", async () => {
      const state = await first.saved();
      return state?.addresses.length === 2 && state.negative.includes("/10.9.9.9");
    });
    await first.stop();
    upstream.close();

    const second = await startRelay(upstream.port, first.directory);
    const client = second.dataPlane();
    open(client, ["/10.0.0.2", "/10.9.9.9", "/10.0.0.4"]);
    await hears(client, "added", remote);
    await hears(client, "added", local);
    await hears(client, "removed", "/10.9.9.9");
    expect(told(client).removed).not.toContain("/10.0.0.4");
    expect(second.relay.lastGoodMs).toBeDefined();

    const again = await controlPlane(upstream.port);
    again.apply(...apply(pod("default", "new", "10.0.0.4", {}, { nodeName: "n2" })));
    await hears(client, "added", "Kubernetes//Pod/default/new");
  });

  it.each([
    ["is no JSON", "{"],
    ["is of another version", '{"version":2}'],
    [
      "has a resource that cannot be decoded",
      JSON.stringify({ version: 1, saved_at_ms: 1, addresses: ["/w=="], authorizations: [], negative: [] }),
    ],
  ])("sets aside a last good state that %s, says so, and starts without", async (_what, text) => {
    const directory = scratchDirectory();
    writeFileSync(join(directory, "last-good.json"), text);
    const { log, dataPlane, saved } = await startRelay((await controlPlane()).port, directory);
    const client = dataPlane();
    open(client, [remote]);
    await eventually("the answer", () => client.responses.flatMap(namesOf).includes(remote));
    expect(readFileSync(join(directory, "last-good.json.unreadable"), "utf8")).toBe(text);
    expect(log.records.find(({ message }) => message === "last good state not loaded")).toMatchObject({
      fields: { hint: expect.stringMatching(/last-good\.json\.unreadable/) as string },
    });
    expect((await eventually("the next", saved)).addresses).not.toEqual([]);
  });

  it("does not take back what a data plane holds while the agent does not know it yet", async () => {
    const upstream = await controlPlane();
    const { dataPlane } = await startRelay(upstream.port);
    const version = await (async () => {
      const client = dataPlane();
      open(client, [remote]);
      await hears(client, "added", remote);
      const resources = client.responses.flatMap((response) => response.resources);
      return resources.find(({ name }) => name === remote)?.version ?? "";
    })();
    const fresh = await startRelay(upstream.port);
    const client = fresh.dataPlane();
    open(client, [remote], { [remote]: version });
    demand(client, "/10.9.9.9");
    await hears(client, "removed", "/10.9.9.9");
    expect(told(client).removed).toEqual(["/10.9.9.9"]);
  });

  it("keeps as last good what was acknowledged only, and tells the control plane what was refused", async () => {
    const upstream = await controlPlane();
    const { dataPlane, saved } = await startRelay(upstream.port);
    const client = dataPlane();
    client.acknowledge = false;
    open(client);
    const first = await client.next("the policies");
    expect(first.typeUrl).toBe(authorizationType);
    client.send(authorizationType, { responseNonce: first.nonce });
    const addresses = await client.next("the addresses");
    expect(namesOf(addresses)).toEqual([local]);
    client.send(addressType, { responseNonce: addresses.nonce });
    await eventually("it to be saved", async () => (await saved())?.addresses.length === 1);

    upstream.apply(...apply(authorizationPolicy("default", "deny")));
    const policies = await client.next("the policy");
    expect(namesOf(policies)).toEqual(["default/deny"]);
    client.send(authorizationType, {
      responseNonce: policies.nonce,
      errorDetail: { code: 3, message: "default/deny: not understood" },
    });
    await eventually("the control plane to hear of it", () =>
      upstream.service.streams.some(({ lastNack }) => lastNack?.includes("default/deny: not understood")),
    );
    expect((await saved())?.authorizations).toEqual([]);
  });

  it("goes on serving what it has when a data plane is replaced while the control plane is away", async () => {
    const upstream = await controlPlane();
    const { dataPlane, relay, log } = await startRelay(upstream.port);
    const first = dataPlane();
    open(first, ["/10.0.0.2", "/10.9.9.9"]);
    await hears(first, "added", remote);
    await hears(first, "removed", "/10.9.9.9");
    upstream.close();
    await eventually("the control plane to be gone", () => !relay.status.connected);
    first.close();
    await lost(log, 4);
    const second = dataPlane();
    open(second, ["/10.0.0.2", "/10.9.9.9"]);
    await hears(second, "added", remote);
    await hears(second, "removed", "/10.9.9.9");
  });

  it("stops asking for what no data plane has asked for lately", async () => {
    const upstream = await controlPlane();
    const { dataPlane, relay } = await startRelay(upstream.port);
    const client = dataPlane();
    open(client, ["/10.0.0.2"]);
    await hears(client, "added", remote);
    client.send(addressType, { resourceNamesUnsubscribe: ["/10.0.0.2"] });
    await eventually("it to be forgotten", () => relay.cache.get(addressType, remote) === undefined);
    expect(relay.cache.get(addressType, local)).toBeDefined();
    upstream.apply(remove(remotePod), ...apply(pod("default", "remote", "10.0.0.5", {}, { nodeName: "n2" })));
    demand(client, "/10.0.0.5");
    await eventually("the new one", () =>
      relay.cache.get(addressType, remote)?.aliases.includes("/10.0.0.5"),
    );
  });
});
