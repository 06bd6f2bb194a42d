import { getEventListeners } from "node:events";
import { existsSync, statSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import { eventually } from "../../test/helpers/eventually.js";
import { scratchDirectory } from "../../test/helpers/scratch.js";
import { MeltemiError } from "../domain/error.js";
import { systemClock } from "./clock.js";
import type { PeerCredentials } from "./native-addon.js";
import { loadNative } from "./native.js";
import { callUnixHttp, callUnixJson, streamUnixHttp } from "./unix-http-client.js";
import { serveUnixHttp, type HttpHandler, type UnixHttpOptions } from "./unix-http-server.js";

interface Served {
  readonly path: string;
  readonly refused: PeerCredentials[];
  readonly errors: unknown[];
  readonly ended: Promise<void>;
  readonly abort: AbortController;
}

function served(handler: HttpHandler, more: Partial<UnixHttpOptions> = {}): Served {
  const path = join(scratchDirectory(), "admin.sock");
  const abort = new AbortController();
  onTestFinished(() => abort.abort());
  const refused: PeerCredentials[] = [];
  const errors: unknown[] = [];
  const { ended } = serveUnixHttp({
    native: loadNative(),
    clock: systemClock,
    path,
    signal: abort.signal,
    onRefused: (peer) => refused.push(peer),
    onError: (error) => errors.push(error),
    handler,
    ...more,
  });
  return { path, refused, errors, ended, abort };
}

describe("HTTP over a Unix socket", () => {
  it("carries method, path, query and body, and answers JSON", async () => {
    const { path } = served(({ method, path: asked, query, body }) => ({
      status: 200,
      body: { method, asked, level: query.get("level"), body: body.toString() },
    }));
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(
      await callUnixJson({ socketPath: path, method: "POST", path: "/logging?level=debug", body: "é" }),
    ).toEqual({
      method: "POST",
      asked: "/logging",
      level: "debug",
      body: "é",
    });
  });

  it("closes connections of a peer that is not allowed, and tells", async () => {
    const { path, refused } = served(() => ({ status: 200 }), { allow: (peer) => peer.uid === 4_000_000 });
    await expect(callUnixHttp({ socketPath: path, path: "/" })).rejects.toMatchObject({ code: "system" });
    expect(refused).toEqual([expect.objectContaining({ pid: process.pid })]);
  });

  it("turns errors into statuses, and shows only those that are meant for the caller", async () => {
    const { path, errors } = served(({ path: asked }) => {
      if (asked === "/absent")
        throw new MeltemiError("not_found", "No such pod.", { hint: "See meltemi workloads." });
      throw new Error("boom");
    });
    await expect(callUnixJson({ socketPath: path, path: "/absent" })).rejects.toMatchObject({
      code: "not_found",
      message: "No such pod.",
      hint: "See meltemi workloads.",
    });
    expect((await callUnixHttp({ socketPath: path, path: "/boom" })).status).toBe(500);
    expect(errors).toHaveLength(1);
  });

  it("bounds the request's body and the answer's", async () => {
    const { path } = served(() => ({ status: 200, body: "x".repeat(1000) }), { maxBodyBytes: 10 });
    const long = await callUnixHttp({ socketPath: path, path: "/", method: "POST", body: "x".repeat(11) });
    expect(long.status).toBe(400);
    await expect(callUnixHttp({ socketPath: path, path: "/", maxBytes: 999 })).rejects.toThrow(
      /longer than 999/,
    );
  });

  it("streams until the client leaves, and then tells the handler", async () => {
    const left = new Promise<void>((resolve) => {
      const { path } = served(({ signal }) => {
        signal.addEventListener("abort", () => resolve());
        const stream = async function* (): AsyncGenerator<string> {
          for (let i = 0; !signal.aborted; i++) {
            yield `line ${i}\n`;
            await systemClock.sleep(5, { signal }).catch(() => undefined);
          }
        };
        return { status: 200, stream: stream() };
      });
      void (async () => {
        const { body } = await streamUnixHttp({ socketPath: path, path: "/logs" });
        let text = "";
        for await (const chunk of body) {
          text += chunk.toString();
          if (text.includes("line 3")) break;
        }
      })();
    });
    await left;
  });

  it("ends the listener, the open connections and the socket file with the signal", async () => {
    let asked = false;
    const { path, abort, ended } = served(() => {
      asked = true;
      return new Promise(() => undefined);
    });
    const pending = callUnixHttp({ socketPath: path, path: "/" });
    pending.catch(() => undefined);
    await eventually("the request", () => asked);
    abort.abort();
    await ended;
    await expect(pending).rejects.toMatchObject({ code: "system" });
    expect(existsSync(path)).toBe(false);
  });

  it("puts no listener on the signal for each connection", async () => {
    const { path, abort } = served(({ signal }) => ({
      status: 200,
      body: (async function* () {
        yield "begun";
        await new Promise((resolve) => signal.addEventListener("abort", resolve));
      })(),
    }));
    const before = getEventListeners(abort.signal, "abort").length;
    const answers = await Promise.all(
      Array.from({ length: 20 }, () => streamUnixHttp({ socketPath: path, path: "/" })),
    );
    expect(answers.map(({ status }) => status)).toEqual(Array(20).fill(200));
    expect(getEventListeners(abort.signal, "abort")).toHaveLength(before);
  });

  it("ends a connection that arrives together with the signal", async () => {
    const { path, abort, ended } = served(() => ({ status: 200 }));
    const pending = callUnixHttp({ socketPath: path, path: "/", timeoutMs: 15_000 });
    abort.abort();
    await expect(pending).rejects.toMatchObject({ code: "system" });
    await ended;
  });

  it("says when nobody serves, or does not answer in time", async () => {
    const directory = scratchDirectory();
    await expect(
      callUnixHttp({ socketPath: join(directory, "absent.sock"), path: "/" }),
    ).rejects.toMatchObject({
      code: "unavailable",
      message: expect.stringContaining("nobody serves") as string,
    });
    const mute = createServer();
    const path = join(directory, "mute.sock");
    await new Promise<void>((resolve) => mute.listen(path, resolve));
    onTestFinished(() => void mute.close());
    const call = { socketPath: path, path: "/", timeoutMs: 50 };
    await expect(callUnixHttp(call)).rejects.toMatchObject({ code: "unavailable" });
    await expect(streamUnixHttp(call)).rejects.toMatchObject({ code: "unavailable" });
    const abort = new AbortController();
    const aborted = callUnixHttp({ socketPath: path, path: "/", signal: abort.signal });
    abort.abort();
    await expect(aborted).rejects.toMatchObject({ code: "system" });
  });
});
