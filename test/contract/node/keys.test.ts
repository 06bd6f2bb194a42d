import { fstatSync, openSync, closeSync, readdirSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import { KeyRequest, KeyResponse } from "../../../src/gen/meltemi/v1/keys.js";
import { KeySafe } from "../../../src/node/keys/safe.js";
import { KeyServer } from "../../../src/node/keys/server.js";
import { systemClock } from "../../../src/platform/clock.js";
import { loadNative } from "../../../src/platform/native.js";
import { eventually } from "../../helpers/eventually.js";
import { RecordingLogger } from "../../helpers/recording-logger.js";
import { scratchDirectory } from "../../helpers/scratch.js";

const native = loadNative();
const sealed = 0xf;

/** Seals and size are as told: a memfd cannot be made from Node. Descriptors are real, of a file. */
function start(options: { seals?: number; size?: number; admits?: boolean } = {}) {
  const directory = scratchDirectory();
  const path = join(directory, "keys.sock");
  const safe = new KeySafe({
    memfdSeals: () => options.seals ?? sealed,
    sizeBytes: (fd) => options.size ?? fstatSync(fd).size,
    closeFd: (fd) => native.closeFd(fd),
  });
  const malformed = { count: 0 };
  const server = new KeyServer({
    safe,
    closeFd: (fd) => native.closeFd(fd),
    admits: () => options.admits ?? true,
    onMalformed: () => (malformed.count += 1),
    clock: systemClock,
    log: new RecordingLogger(),
  });
  const end = new AbortController();
  const running = server.run(native.PacketListener.bind(path, 0o600), end.signal);
  onTestFinished(async () => {
    end.abort();
    await running;
    safe.clear();
  });
  const ask = async (data: Buffer, fds: readonly number[] = []) => {
    const connection = await native.PacketConnection.connect(path);
    try {
      // A connection that is closed at once may be so before the request is out.
      await connection.send(data, fds).catch(() => undefined);
      const packet = await connection.receive(256);
      return packet === null ? undefined : { ...KeyResponse.decode(packet.data), fds: packet.fds };
    } finally {
      connection.close();
    }
  };
  const file = (name: string): number => {
    const fd = openSync(join(directory, name), "w+");
    onTestFinished(() => closeSync(fd));
    return fd;
  };
  /** How many of our descriptors stand for that file. */
  const held = (name: string): number =>
    readdirSync("/proc/self/fd").filter((fd) => {
      try {
        return readlinkSync(`/proc/self/fd/${fd}`) === join(directory, name);
      } catch {
        return false;
      }
    }).length;
  return { safe, malformed, ask, file, held };
}

const deposit = Buffer.from(KeyRequest.encode({ payload: { $case: "deposit", value: {} } }).finish());
const withdraw = Buffer.from(KeyRequest.encode({ payload: { $case: "withdraw", value: {} } }).finish());

describe("the agent's side of keys.sock", () => {
  it("says that nothing was deposited", async () => {
    const { ask } = start();
    expect(await ask(withdraw)).toEqual({ error: "", found: false, fds: [] });
  });

  it("hands out the descriptor deposited last, to as many as ask, and keeps one", async () => {
    const { ask, file, held } = start();
    expect(await ask(deposit, [file("first")])).toMatchObject({ error: "" });
    expect(await ask(deposit, [file("second")])).toMatchObject({ error: "" });
    expect(held("first")).toBe(1);
    for (let round = 0; round < 2; round += 1) {
      const answer = await ask(withdraw);
      expect(answer).toMatchObject({ error: "", found: true });
      const [fd] = answer!.fds;
      expect(readlinkSync(`/proc/self/fd/${fd!}`)).toMatch(/second$/);
      native.closeFd(fd!);
    }
    expect(held("second")).toBe(2);
  });

  it.each([
    ["is not sealed against writing", { seals: 0x7 }, /has the seals 7, and needs 15/],
    ["may be unsealed by others", { seals: 0xe }, /needs 15/],
    ["is larger than is kept", { size: (64 << 20) + 1 }, /67108865 bytes/],
  ])("refuses a descriptor that %s, and keeps the one before", async (_what, options, reason) => {
    const { ask, file, held, safe } = start(options);
    const answer = await ask(deposit, [file("bad")]);
    expect(answer?.error).toMatch(reason);
    expect(safe.holds).toBe(false);
    await eventually("the descriptor to be closed", () => held("bad") === 1);
  });

  it("refuses what is not a memfd by the kernel's word", () => {
    const directory = scratchDirectory();
    const fd = native.duplicateFd(openSync(join(directory, "plain"), "w"));
    const safe = new KeySafe({
      memfdSeals: (one) => native.memfdSeals(one),
      sizeBytes: () => 0,
      closeFd: (one) => native.closeFd(one),
    });
    expect(() => safe.deposit(fd)).toThrow(/not a memfd/);
    expect(() => fstatSync(fd)).toThrow(/EBADF/);
  });

  it.each<[string, Buffer, number, RegExp]>([
    ["a deposit without a descriptor", deposit, 0, /one descriptor, not 0/],
    ["a deposit with two", deposit, 2, /one descriptor, not 2/],
    ["a withdrawal with a descriptor", withdraw, 1, /carries no descriptor/],
    ["bytes that are no request", Buffer.from([0xff, 0xff]), 0, /cannot be decoded/],
    ["a request for nothing", Buffer.from([0x1a, 0x00]), 0, /asks for nothing/],
  ])("answers %s with an error and keeps no descriptor", async (_what, data, descriptors, reason) => {
    const { ask, file, held, malformed, safe } = start();
    const fds = ["x", "y"].slice(0, descriptors).map(file);
    expect((await ask(data, fds))?.error).toMatch(reason);
    expect(malformed.count).toBe(1);
    expect(safe.holds).toBe(false);
    await eventually("descriptors to be closed", () => held("x") === Math.min(1, descriptors));
  });

  it.each<[string, Buffer, number]>([
    ["a packet larger than a request can be", Buffer.alloc(4096, 1), 0],
    ["more descriptors than are accepted", deposit, 16],
  ])("ends a connection that sends %s, keeps none, and counts it", async (_what, data, descriptors) => {
    const { ask, file, held, malformed, safe } = start();
    expect(await ask(deposit, [file("good")])).toMatchObject({ error: "" });
    const flood = file("flood");
    const answer = await ask(
      data,
      Array.from({ length: descriptors }, () => flood),
    );
    expect(answer?.found ?? false).toBe(false);
    await eventually("the count", () => malformed.count === 1);
    await eventually("descriptors to be closed", () => held("flood") === 1);
    expect(safe.holds).toBe(true);
  });

  it("closes the connection of a peer that is not the data plane", async () => {
    const { ask } = start({ admits: false });
    expect(await ask(withdraw)).toBeUndefined();
  });
});
