import {
  Client,
  Metadata,
  Server,
  credentials,
  status,
  type ServiceDefinition,
  type ServiceError,
} from "@grpc/grpc-js";
import { existsSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import { scratchDirectory } from "../../test/helpers/scratch.js";
import { systemClock } from "./clock.js";
import { loadNative } from "./native.js";
import { serveUnixGrpc, unixTarget } from "./unix-grpc.js";

const text = {
  serialize: (value: string) => Buffer.from(value),
  deserialize: (bytes: Buffer) => bytes.toString(),
};
const method = (path: string, stream: boolean) => ({
  path,
  requestStream: stream,
  responseStream: stream,
  requestSerialize: text.serialize,
  requestDeserialize: text.deserialize,
  responseSerialize: text.serialize,
  responseDeserialize: text.deserialize,
});
const service = {
  shout: method("/t.T/Shout", false),
  chat: method("/t.T/Chat", true),
} satisfies ServiceDefinition;

function served(allow = true): {
  client: Client;
  abort: AbortController;
  ended: Promise<void>;
  path: string;
  refused: unknown[];
  malformed: () => number;
} {
  const path = join(scratchDirectory(), "xds.sock");
  const server = new Server();
  server.addService(service, {
    shout: (call: { request: string }, reply: (error: null, value: string) => void) =>
      reply(null, call.request.toUpperCase()),
    chat: (call: NodeJS.ReadWriteStream) => {
      call.on("data", (word: string) => call.write(`${word}!`));
      call.on("end", () => call.end());
    },
  });
  const abort = new AbortController();
  const refused: unknown[] = [];
  let malformed = 0;
  const { ended } = serveUnixGrpc(server, {
    native: loadNative(),
    clock: systemClock,
    path,
    signal: abort.signal,
    allow: () => allow,
    onRefused: (peer) => refused.push(peer),
    onMalformed: () => malformed++,
    onError: () => undefined,
  });
  const client = new Client(unixTarget(path), credentials.createInsecure());
  onTestFinished(() => {
    client.close();
    abort.abort();
    server.forceShutdown();
  });
  return { client, abort, ended, path, refused, malformed: () => malformed };
}

function shout(client: Client, word: string): Promise<string | undefined> {
  return new Promise((resolve, reject) => {
    const { path } = service.shout;
    const options = { deadline: Date.now() + 5000 };
    client.makeUnaryRequest(
      path,
      text.serialize,
      text.deserialize,
      word,
      new Metadata(),
      options,
      (error, value) => (error === null ? resolve(value) : reject(error)),
    );
  });
}

describe("gRPC over a Unix socket", () => {
  it("answers calls from grpc-js, also many at once", async () => {
    const { client } = served();
    const words = Array.from({ length: 50 }, (_, index) => `w${index}`);
    expect(await Promise.all(words.map((word) => shout(client, word)))).toEqual(
      words.map((word) => word.toUpperCase()),
    );
  });

  it("carries streams, and ends them with the signal", async () => {
    const { client, abort, ended, path } = served();
    const stream = client.makeBidiStreamRequest(
      service.chat.path,
      text.serialize,
      text.deserialize,
      new Metadata(),
    );
    const first = new Promise((resolve) => stream.once("data", resolve));
    const failed = new Promise<ServiceError>((resolve) =>
      stream.once("error", (error) => resolve(error as ServiceError)),
    );
    stream.write("hello");
    expect(await first).toBe("hello!");
    abort.abort();
    await ended;
    expect((await failed).code).not.toBe(status.OK);
    expect(existsSync(path)).toBe(false);
  });

  it("refuses a peer that is not allowed before a byte of HTTP/2", async () => {
    const { client, refused } = served(false);
    await expect(shout(client, "x")).rejects.toMatchObject({ code: status.UNAVAILABLE });
    expect(refused.length).toBeGreaterThan(0);
  });

  it.each([
    ["bytes of another protocol", "GET / HTTP/1.1\r\nhost: x\r\n\r\n"],
    ["bytes of none", "\u0000\u0001\u0002"],
    ["a preface without settings", `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n${"x".repeat(9)}`],
  ])("closes and counts %s, and serves others", async (_, bytes) => {
    const { client, path, malformed } = served();
    const peer = connect(path);
    const closed = new Promise((resolve) => peer.once("close", resolve));
    peer.on("error", () => undefined);
    peer.write(bytes);
    await closed;
    expect(malformed()).toBe(1);
    expect(await shout(client, "still")).toBe("STILL");
  });

  it("takes a beginning that comes in pieces, and does not count who hangs up before it", async () => {
    const { path, client, malformed } = served();
    const gone = connect(path);
    await new Promise((resolve) => gone.once("connect", resolve));
    gone.destroy();
    const slow = connect(path);
    const settings = Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    const answered = new Promise<Buffer>((resolve) => slow.once("data", resolve));
    for (const byte of Buffer.concat([Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), settings])) {
      await new Promise((resolve) => slow.write(Buffer.from([byte]), resolve));
    }
    expect((await answered)[3]).toBe(4);
    expect(await shout(client, "on")).toBe("ON");
    expect(malformed()).toBe(0);
    slow.destroy();
  });
});
