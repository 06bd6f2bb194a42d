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
  const { ended } = serveUnixGrpc(server, {
    native: loadNative(),
    clock: systemClock,
    path,
    signal: abort.signal,
    allow: () => allow,
    onRefused: (peer) => refused.push(peer),
    onError: () => undefined,
  });
  const client = new Client(unixTarget(path), credentials.createInsecure());
  onTestFinished(() => {
    client.close();
    abort.abort();
    server.forceShutdown();
  });
  return { client, abort, ended, path, refused };
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
});
