import { closeSync, openSync, readdirSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import { ZdsServer } from "../../../src/node/zds/server.js";
import { systemClock } from "../../../src/platform/clock.js";
import { loadNative } from "../../../src/platform/native.js";
import { eventually } from "../../helpers/eventually.js";
import { RecordingLogger } from "../../helpers/recording-logger.js";
import { scratchDirectory } from "../../helpers/scratch.js";
import { FakeDataPlane } from "./fake-data-plane.js";

const native = loadNative();
const never = new AbortController().signal;
const wire = ({ told }: FakeDataPlane): string[] =>
  told.map(({ type, uid, descriptors }) => `${type} ${uid} ${descriptors}`.replace("  ", " "));

interface Options {
  readonly admits?: (peer: { readonly uid: number }) => boolean;
  readonly ackTimeoutMs?: number;
}

function start(options: Options = {}) {
  const path = join(scratchDirectory(), "zds.sock");
  const log = new RecordingLogger();
  const malformed = { count: 0 };
  const server = new ZdsServer({
    clock: systemClock,
    log,
    closeFd: (fd) => native.closeFd(fd),
    admits: options.admits ?? (() => true),
    ackTimeoutMs: options.ackTimeoutMs ?? 5_000,
    onMalformed: () => (malformed.count += 1),
  });
  const end = new AbortController();
  const running = server.run(native.PacketListener.bind(path, 0o600), end.signal);
  const { fd } = native.openNetns("/proc/self/ns/net");
  onTestFinished(async () => {
    end.abort();
    await running;
    native.closeFd(fd);
  });
  const pod = (uid: string) => ({
    uid,
    info: { name: uid, namespace: "default", serviceAccount: "sa" },
    netnsFd: fd,
  });
  const connect = async (
    options: Parameters<typeof FakeDataPlane.connect>[1] = {},
  ): Promise<FakeDataPlane> => {
    const dataPlane = await FakeDataPlane.connect(path, options);
    onTestFinished(() => dataPlane.close());
    return dataPlane;
  };
  return { server, log, malformed, path, pod, connect };
}

const namespaceDescriptors = (): number =>
  readdirSync("/proc/self/fd").filter((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).startsWith("net:");
    } catch {
      return false;
    }
  }).length;

describe("the agent's side of zds.sock", () => {
  it("sends a snapshot with one descriptor per pod, then what changes", async () => {
    const { server, pod, connect } = start();
    const served = Promise.all([server.serve(pod("a"), never), server.serve(pod("b"), never)]);
    const dataPlane = await connect();
    await served;
    await eventually("the snapshot", () => server.streams.some(({ live }) => live));
    await server.serve(pod("c"), never);
    await server.withdraw("a");
    expect(wire(dataPlane)).toEqual(["add a 1", "add b 1", "snapshot 0", "add c 1", "del a 0"]);
    expect([...dataPlane.serving].sort()).toEqual(["b", "c"]);
  });

  it("tells a pod anew when it comes back under the same uid", async () => {
    const { server, pod, connect } = start();
    const dataPlane = await connect();
    await server.serve(pod("a"), never);
    await server.serve(pod("a"), never);
    expect(wire(dataPlane).filter((line) => !line.startsWith("snapshot"))).toEqual([
      "add a 1",
      "del a 0",
      "add a 1",
    ]);
  });

  it("tells every data plane everything, and counts a pod as served when all have acknowledged", async () => {
    const { server, pod, connect } = start();
    const older = await connect();
    const newer = await connect();
    newer.silent = true;
    let served = false;
    const serving = server.serve(pod("a"), never).then(() => (served = true));
    await eventually("both to be told", () => older.serving.has("a") && server.streams.length === 2);
    expect(served).toBe(false);
    newer.close();
    await serving;
    expect(server.streams).toEqual([{ pid: process.pid, live: true }]);
  });

  it("waits while there is no data plane, and stops waiting when told to", async () => {
    const { server, pod } = start();
    const stop = new AbortController();
    const serving = server.serve(pod("a"), stop.signal);
    stop.abort();
    await expect(serving).rejects.toThrow(/no longer to be served/);
  });

  it("passes on a data plane's refusal, at once and later", async () => {
    const { server, pod, connect } = start();
    const dataPlane = await connect();
    dataPlane.refuse = () => "cannot bind 15001: in use";
    await expect(server.serve(pod("a"), never)).rejects.toThrow(
      /cannot serve the pod: cannot bind 15001: in use/,
    );
    await server.withdraw("a");
    dataPlane.refuse = () => "";
    await server.serve(pod("a"), never);
    const failure = server.failure("a", never);
    dataPlane.close();
    await eventually("the data plane to be gone", () => server.streams.length === 0);
    await connect({ refuse: () => "no such namespace" });
    expect(await failure).toBe("no such namespace");
  });

  it("disconnects a data plane that does not answer, and does not wait for it any longer", async () => {
    const { server, log, pod, connect } = start({ ackTimeoutMs: 100 });
    const dataPlane = await connect();
    await server.serve(pod("a"), never);
    dataPlane.silent = true;
    await server.withdraw("a");
    await dataPlane.ended;
    expect(log.records.at(-1)?.fields["error"]).toMatch(/not answered within 100 ms/);
  });

  it.each<[string, Buffer, RegExp]>([
    ["is no hello", Buffer.from([0xff, 0xff, 0xff]), /hello cannot be decoded/],
    ["is a truncated hello", Buffer.from([0x08]), /hello cannot be decoded/],
    ["names another version", Buffer.from([0x08, 0x02]), /version 2 of ZDS/],
    ["is too long", Buffer.alloc(2000, 1), /receive/],
  ])("closes a connection whose first packet %s", async (_what, first, reason) => {
    const { server, log, connect } = start();
    const dataPlane = await connect({ hello: first });
    await dataPlane.ended;
    expect(dataPlane.told).toEqual([]);
    await eventually("the stream to be gone", () => server.streams.length === 0);
    expect(log.records.at(-1)?.fields["error"]).toMatch(reason);
  });

  it("closes a connection that sends a descriptor or an unasked message, keeps none, and serves the others on", async () => {
    const { server, pod, connect } = start();
    const good = await connect();
    await server.serve(pod("a"), never);
    const before = namespaceDescriptors();
    const bad = await connect();
    await eventually("both to be live", () => server.streams.filter(({ live }) => live).length === 2);
    const netns = openSync("/proc/self/ns/net", "r");
    await bad.send(Buffer.from([0x0a, 0x00]), [netns]);
    closeSync(netns);
    await bad.ended;
    const chatty = await connect();
    await eventually("both to be live", () => server.streams.filter(({ live }) => live).length === 2);
    await chatty.send(Buffer.from([0x0a, 0x00]));
    await chatty.ended;
    await server.serve(pod("b"), never);
    expect([...good.serving].sort()).toEqual(["a", "b"]);
    await eventually("no descriptor to be kept", () => namespaceDescriptors() === before);
  });

  it("does not wait for a connection that says no hello", async () => {
    const { server, pod, path, connect } = start();
    const mute = await native.PacketConnection.connect(path);
    onTestFinished(() => mute.close());
    await eventually("both", () => server.streams.length === 1);
    expect(server.awayMs).toBeGreaterThan(0);
    await connect();
    await server.serve(pod("a"), never);
    expect(server.awayMs).toBe(0);
  });

  it.each<[string, Buffer, number]>([
    ["garbage", Buffer.from([0xff, 0xff, 0xff]), 0],
    ["a truncated hello", Buffer.from([0x0a, 0x7f, 0x01]), 0],
    ["an oversized packet", Buffer.alloc(1 << 16, 8), 0],
    ["a flood of descriptors", Buffer.from([0x08, 0x01]), 16],
  ])("disconnects a peer that sends %s, counts it, and serves on", async (_what, data, descriptors) => {
    const { server, malformed, log, pod, path, connect } = start();
    const dataPlane = await connect();
    const before = namespaceDescriptors();
    const hostile = await native.PacketConnection.connect(path);
    onTestFinished(() => hostile.close());
    await hostile
      .send(
        data,
        Array.from({ length: descriptors }, () => pod("x").netnsFd),
      )
      .catch(() => undefined);
    expect(await hostile.receive(1024).catch(() => null)).toBeNull();
    await eventually("the count", () => malformed.count === 1);
    expect(log.messages).toContain("data plane disconnected");
    expect(namespaceDescriptors()).toBe(before);
    await server.serve(pod("a"), never);
    expect([...dataPlane.serving]).toEqual(["a"]);
  });

  it("tells nothing to a peer that is not admitted", async () => {
    const { server, connect } = start({ admits: ({ uid }) => uid !== process.getuid?.() });
    const dataPlane = await connect();
    await dataPlane.ended;
    expect(dataPlane.told).toEqual([]);
    expect(server.streams).toEqual([]);
  });
});
