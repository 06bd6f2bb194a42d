/** Over real sockets: what may come back when somebody else's document is fetched. */
import { createServer, type RequestListener, type Server } from "node:http";
import { BlockList, type AddressInfo } from "node:net";
import { afterEach, expect, test } from "vitest";
import { httpGet } from "./http-get.js";
import { isListed, nodeAddresses } from "./node-addresses.js";

const servers: Server[] = [];

async function serve(listener: RequestListener): Promise<string> {
  const server = createServer(listener);
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

afterEach(() => {
  for (const server of servers.splice(0)) {
    server.closeAllConnections();
    server.close();
  }
});

const get = httpGet(() => []);
const options = {
  timeoutMs: 10_000,
  mostBytes: 1_000,
  redirects: 2,
  signal: new AbortController().signal,
};

test("a document comes with what it says of its age, through redirects", async () => {
  const url = await serve((request, response) => {
    if (request.url === "/a") response.writeHead(302, { location: "/b" }).end();
    else response.writeHead(200, { "cache-control": "max-age=7" }).end("keys");
  });
  expect(await get(`${url}/a`, options)).toEqual({ body: "keys", cacheControl: "max-age=7" });
});

test.each<[string, RequestListener, RegExp]>([
  ["another status", (_, response) => response.writeHead(503).end("secret"), /it answers 503$/],
  ["too much", (_, response) => response.end("x".repeat(2_000)), /more than 1000 bytes$/],
  [
    "redirects without end",
    (_, response) => response.writeHead(302, { location: "/" }).end(),
    /too many redirects$/,
  ],
  [
    "another protocol",
    (_, response) => response.writeHead(302, { location: "file:///etc/passwd" }).end(),
    /redirects to where/,
  ],
  ["a reset", (request) => request.socket.destroy(), /hang up|ECONNRESET/],
])("%s is refused, and named", async (_, listener, want) => {
  const url = await serve(listener);
  await expect(get(`${url}/keys?token=secret`, options)).rejects.toThrow(want);
  await expect(get(`${url}/keys?token=secret`, options)).rejects.not.toThrow("secret");
});

test("a server that does not answer, or not to the end, is given up", async () => {
  for (const listener of [
    () => undefined,
    (_: unknown, response: { write: (text: string) => void }) => response.write("x"),
  ]) {
    const url = await serve(listener);
    await expect(get(url, { ...options, timeoutMs: 50 })).rejects.toThrow("no answer within 50 ms");
  }
});

test("what is no longer wanted ends", async () => {
  const stop = new AbortController();
  const url = await serve(() => stop.abort());
  await expect(get(url, { ...options, signal: stop.signal })).rejects.toThrow("no longer wanted");
});

test("no hop goes to an address of the node: written, resolved or redirected to", async () => {
  let asked = 0;
  const url = await serve((_, response) => {
    asked += 1;
    response.end("secret");
  });
  const { port } = new URL(url);
  const outside = httpGet(() => [], nodeAddresses());
  const refusal = "is an address of the control plane's own node; refused";
  for (const host of ["127.0.0.1", "localhost", "2130706433", "0.0.0.0", "[::ffff:127.0.0.1]", "[::1]"])
    await expect(outside(`http://${host}:${port}/keys`, options), host).rejects.toThrow(refusal);
  expect(asked).toBe(0);
  const other = new BlockList();
  other.addAddress("127.0.0.2");
  const redirecting = await serve((_, response) =>
    response.writeHead(302, { location: `http://127.0.0.2:${port}/` }).end(),
  );
  await expect(httpGet(() => [], other)(redirecting, options)).rejects.toThrow(`127.0.0.2 ${refusal}`);
  expect(await httpGet(() => [], other)(`http://localhost:${port}/`, options)).toMatchObject({
    body: "secret",
  });
});

test.each([
  ["127.8.8.8", true],
  ["169.254.169.254", true],
  ["::ffff:a9fe:a9fe", true],
  ["0.0.0.0", true],
  ["::", true],
  ["[::1]", true],
  ["fe80::1%eth0", true],
  ["fd00:ec2::254", true],
  ["fd00:ec2::255", false],
  ["10.0.0.1", false],
  ["2001:db8::1", false],
  ["issuer.example", false],
])("%s is an address of the node: %s", (address, want) => {
  expect(isListed(nodeAddresses(), address)).toBe(want);
});
