import { credentials, Metadata, Server, status, type ServiceError } from "@grpc/grpc-js";
import { getEventListeners, once } from "node:events";
import { X509Certificate } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer, connect as tcpConnect, type AddressInfo, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect as tlsConnect } from "node:tls";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Authority } from "../../../src/ca/authority.js";
import { KeyStore } from "../../../src/ca/key-store.js";
import type { RefusalReason } from "../../../src/ca/ports.js";
import { addCertificateService } from "../../../src/ca/service/certificate-service.js";
import { Strangers } from "../../../src/ca/service/strangers.js";
import { listenTls } from "../../../src/ca/service/tls-listener.js";
import { addTrustService } from "../../../src/ca/service/trust-service.js";
import { NodeTokens } from "../../../src/ca/tokens.js";
import { spiffeId, type Identity } from "../../../src/domain/identity.js";
import {
  IstioCertificateServiceClient,
  IstioCertificateServiceService,
  type IstioCertificateRequest,
  type IstioCertificateResponse,
} from "../../../src/gen/istio/v1/auth/ca.js";
import { TrustServiceClient, type TrustBundle } from "../../../src/gen/meltemi/v1/trust.js";
import { systemClock } from "../../../src/platform/clock.js";
import { makeRequest } from "../../helpers/csr.js";
import { RecordingLogger } from "../../helpers/recording-logger.js";

const cart: Identity = { trustDomain: "cluster.local", namespace: "shop", serviceAccount: "cart" };
const pay: Identity = { trustDomain: "cluster.local", namespace: "shop", serviceAccount: "pay" };

/** A control plane's CA on real sockets, with a model that the test writes by hand. */
class Mesh {
  readonly directory = mkdtempSync(join(tmpdir(), "meltemi-ca-contract-"));
  readonly pods = new Set([`n1 ${spiffeId(cart)}`, `n2 ${spiffeId(pay)}`]);
  readonly log = new RecordingLogger();
  readonly refused: RefusalReason[] = [];
  readonly stop = new AbortController();
  readonly tokens = new NodeTokens(join(this.directory, "tokens"));
  readonly authority: Authority;
  readonly closedStrangers: string[] = [];
  readonly strangers = new Strangers({ limit: 4, onClosed: (peer) => this.closedStrangers.push(peer) });
  issued = 0;
  port = 0;
  ended: Promise<void> = Promise.resolve();
  #change: () => void = () => undefined;
  #changed = this.#nextChange();

  constructor() {
    this.authority = new Authority({
      trustDomain: "cluster.local",
      keys: new KeyStore(join(this.directory, "ca")),
      clock: systemClock,
      log: this.log,
      certificateTtlMs: 86_400_000,
      rotation: { settleMs: 0, deadlineMs: 86_400_000 },
      inUse: (entry) => this.pods.has(`${entry.node} ${entry.identity}`),
    });
  }

  #nextChange(): Promise<void> {
    return new Promise((resolve) => (this.#change = resolve));
  }

  addPod(node: string, identity: Identity): void {
    this.pods.add(`${node} ${spiffeId(identity)}`);
    this.#change();
    this.#changed = this.#nextChange();
  }

  async start(podGraceMs = 0): Promise<void> {
    const server = new Server();
    addCertificateService(server, {
      authority: this.authority,
      authenticator: this.strangers.knowing(this.tokens),
      pods: {
        hosts: (node, identity) => this.pods.has(`${node} ${spiffeId(identity)}`),
        nextChange: (signal) =>
          Promise.race([
            this.#changed,
            new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve())),
          ]),
      },
      counters: { issued: () => (this.issued += 1), refused: (reason) => this.refused.push(reason) },
      audit: this.log,
      podGraceMs,
    });
    addTrustService(server, this.authority, this.strangers.knowing(this.tokens), this.stop.signal);
    const { ports, ended } = await listenTls({
      server,
      authority: this.authority,
      addresses: [
        { type: "tcp", host: "127.0.0.1", port: 0 },
        { type: "unix", path: this.socket },
      ],
      names: [],
      strangers: this.strangers,
      clock: systemClock,
      log: this.log,
      signal: this.stop.signal,
      graceMs: 50,
    });
    this.port = ports[0] ?? 0;
    this.ended = ended;
  }

  get socket(): string {
    return join(this.directory, "xds.sock");
  }

  token(node: string): string {
    return readFileSync(this.tokens.ensure(node), "utf8").trim();
  }

  tls(): ReturnType<typeof credentials.createSsl> {
    return credentials.createSsl(Buffer.from(this.authority.rootsPem()));
  }

  client(target = `localhost:${this.port}`): IstioCertificateServiceClient {
    return new IstioCertificateServiceClient(target, this.tls());
  }

  async close(): Promise<void> {
    this.stop.abort();
    await this.ended;
    this.authority.close();
    rmSync(this.directory, { recursive: true, force: true });
  }
}

let mesh: Mesh;
beforeEach(() => {
  mesh = new Mesh();
});
afterEach(() => mesh.close());

const bearer = (token: string): Metadata => {
  const metadata = new Metadata();
  metadata.set("authorization", `Bearer ${token}`);
  return metadata;
};

type Answer =
  | { readonly error: ServiceError; readonly response?: undefined }
  | { readonly error?: undefined; readonly response: IstioCertificateResponse };

async function ask(
  metadata: Metadata,
  request: Partial<IstioCertificateRequest>,
  target?: string,
): Promise<Answer> {
  const client = mesh.client(target);
  try {
    return await new Promise<Answer>((resolve) =>
      client.createCertificate(
        { csr: "", validityDuration: 0, metadata: undefined, ...request },
        metadata,
        (error, response) => resolve(error ? { error } : { response }),
      ),
    );
  } finally {
    client.close();
  }
}

const requestFor = async (
  identity: Identity,
  uris?: readonly string[],
): Promise<Partial<IstioCertificateRequest>> => ({
  csr: (await makeRequest({ uris: uris ?? [spiffeId(identity)] })).pem,
  validityDuration: 3600,
  metadata: { ImpersonatedIdentity: spiffeId(identity) },
});

test("a node gets a certificate for its pod: leaf, issuer, and the bundle of roots last", async () => {
  await mesh.start();
  const { response } = await ask(bearer(mesh.token("n1")), await requestFor(cart));
  const chain = response!.certChain;
  expect(chain).toHaveLength(3);
  const [leaf, issuing, root] = chain.map((pem) => new X509Certificate(pem));
  expect(leaf!.subjectAltName).toBe(`URI:${spiffeId(cart)}`);
  expect(leaf!.verify(issuing!.publicKey) && issuing!.verify(root!.publicKey)).toBe(true);
  expect(chain.at(-1)).toBe(mesh.authority.rootsPem());
  expect(mesh.issued).toBe(1);
  expect(mesh.log.records.find(({ message }) => message === "certificate issued")?.fields).toMatchObject({
    node: "n1",
    identity: spiffeId(cart),
    serial: leaf!.serialNumber.toLowerCase(),
  });
  expect(JSON.stringify(mesh.log.records)).not.toContain(mesh.token("n1"));
});

test("the same over the Unix socket, with TLS inside", async () => {
  await mesh.start();
  const { response } = await ask(bearer(mesh.token("n1")), await requestFor(cart), `unix:${mesh.socket}`);
  expect(response!.certChain).toHaveLength(3);
});

interface Refused {
  readonly name: string;
  readonly code: status;
  readonly says: RegExp;
  readonly reason: RefusalReason;
  readonly token?: () => Metadata;
  readonly request?: () => Promise<Partial<IstioCertificateRequest>>;
}

const refusals: readonly Refused[] = [
  {
    name: "no token",
    code: status.UNAUTHENTICATED,
    says: /no token/,
    reason: "unauthenticated",
    token: () => new Metadata(),
  },
  {
    name: "a wrong token",
    code: status.UNAUTHENTICATED,
    says: /belongs to no node/,
    reason: "unauthenticated",
    token: () => bearer("x".repeat(43)),
  },
  {
    name: "a revoked token",
    code: status.UNAUTHENTICATED,
    says: /belongs to no node/,
    reason: "unauthenticated",
    token: () => {
      const metadata = bearer(mesh.token("n1"));
      mesh.tokens.revoke("n1");
      return metadata;
    },
  },
  {
    name: "a malformed token",
    code: status.UNAUTHENTICATED,
    says: /malformed/,
    reason: "unauthenticated",
    token: () => bearer("short"),
  },
  {
    name: "the token of a node without such a pod",
    code: status.PERMISSION_DENIED,
    says: /no enrolled pod of service account shop\/cart runs on node n2/,
    reason: "not_on_node",
    token: () => bearer(mesh.token("n2")),
  },
  {
    name: "an identity of another node's pod",
    code: status.PERMISSION_DENIED,
    says: /no enrolled pod of service account shop\/pay runs on node n1/,
    reason: "not_on_node",
    request: () => requestFor(pay),
  },
  {
    name: "a request for another identity than its metadata",
    code: status.PERMISSION_DENIED,
    says: /the request is for/,
    reason: "identity_mismatch",
    request: () => requestFor(cart, [spiffeId(pay)]),
  },
  {
    name: "a request for two identities",
    code: status.PERMISSION_DENIED,
    says: /the request is for/,
    reason: "identity_mismatch",
    request: () => requestFor(cart, [spiffeId(cart), spiffeId(pay)]),
  },
  {
    name: "an identity of another trust domain",
    code: status.PERMISSION_DENIED,
    says: /trust domain "cluster.local"/,
    reason: "identity_mismatch",
    request: () => requestFor({ ...cart, trustDomain: "evil.example" }),
  },
  {
    name: "no identity",
    code: status.INVALID_ARGUMENT,
    says: /ImpersonatedIdentity is missing/,
    reason: "bad_request",
    request: async () => ({ ...(await requestFor(cart)), metadata: {} }),
  },
  {
    name: "an identity that is none",
    code: status.INVALID_ARGUMENT,
    says: /is not an identity/,
    reason: "bad_request",
    request: async () => ({
      ...(await requestFor(cart)),
      metadata: { ImpersonatedIdentity: "spiffe://cluster.local/ns/../sa/cart" },
    }),
  },
  {
    name: "a huge request",
    code: status.INVALID_ARGUMENT,
    says: /more than 16384/,
    reason: "bad_request",
    request: async () => ({ ...(await requestFor(cart)), csr: "A".repeat(1 << 20) }),
  },
  {
    name: "a request that is no PEM",
    code: status.INVALID_ARGUMENT,
    says: /not one PEM block/,
    reason: "bad_request",
    request: async () => ({ ...(await requestFor(cart)), csr: "hello" }),
  },
  {
    name: "an identity on the refused list",
    code: status.PERMISSION_DENIED,
    says: /is refused new certificates/,
    reason: "identity_refused",
    request: () => {
      mesh.authority.refuse(cart);
      return requestFor(cart);
    },
  },
];

test.each(refusals)("refused: $name", async ({ code, says, reason, token, request }) => {
  await mesh.start();
  const { error } = await ask(token?.() ?? bearer(mesh.token("n1")), await (request?.() ?? requestFor(cart)));
  expect(error?.code).toBe(code);
  expect(error?.details).toMatch(says);
  expect(mesh.refused).toEqual([reason]);
  expect(mesh.issued).toBe(0);
  expect(mesh.log.records.at(-1)).toMatchObject({
    level: "warn",
    message: "certificate refused",
    fields: { reason },
  });
  expect(mesh.authority.describe().live).toBe(0);
});

test("a truncated protobuf is refused, and the next call is served", async () => {
  await mesh.start();
  const client = mesh.client();
  const encoded = IstioCertificateServiceService.createCertificate.requestSerialize({
    csr: "abc",
    validityDuration: 1,
    metadata: undefined,
  });
  const error = await new Promise<ServiceError | null>((resolve) =>
    client.makeUnaryRequest(
      IstioCertificateServiceService.createCertificate.path,
      (message: Buffer) => message,
      (message: Buffer) => message,
      encoded.subarray(0, 3),
      bearer(mesh.token("n1")),
      (failure) => resolve(failure),
    ),
  );
  client.close();
  expect(error?.code).toBe(status.INTERNAL);
  expect((await ask(bearer(mesh.token("n1")), await requestFor(cart))).response).toBeDefined();
});

test("a pod that the control plane has not seen yet is waited for, and one that does not come is not", async () => {
  await mesh.start(3_000);
  const early = ask(bearer(mesh.token("n1")), await requestFor(pay));
  await vi.waitFor(() => expect(mesh.log.records).toBeDefined());
  mesh.addPod("n3", cart);
  mesh.addPod("n1", pay);
  expect((await early).response).toBeDefined();
});

test("a pod that does not come within the grace time is refused", async () => {
  await mesh.start(50);
  expect((await ask(bearer(mesh.token("n1")), await requestFor(pay))).error?.code).toBe(
    status.PERMISSION_DENIED,
  );
});

test("a watcher is told the bundle at once and at each change, and only with a token", async () => {
  await mesh.start();
  const client = new TrustServiceClient(`localhost:${mesh.port}`, mesh.tls());
  const refused = client.watchTrustBundle({}, new Metadata());
  refused.resume();
  const refusal = await new Promise<ServiceError>((resolve) =>
    refused.on("error", (error) => resolve(error as ServiceError)),
  );
  expect(refusal.code).toBe(status.UNAUTHENTICATED);

  const stream = client.watchTrustBundle({}, bearer(mesh.token("n1")));
  stream.on("error", () => undefined);
  const bundles: TrustBundle[] = [];
  stream.on("data", (bundle: TrustBundle) => bundles.push(bundle));
  await vi.waitFor(() => expect(bundles.map(({ version }) => version)).toEqual([1]), 5_000);
  mesh.authority.startRotation("root");
  await vi.waitFor(() => expect(bundles.map(({ version }) => version)).toEqual([1, 2]), 5_000);
  expect(bundles[1]).toMatchObject({ trustDomain: "cluster.local" });
  expect(bundles[1]?.roots).toHaveLength(2);
  stream.cancel();
  client.close();
});

test("watchers put no listener on the process's signal, and all end with it", async () => {
  await mesh.start();
  const before = getEventListeners(mesh.stop.signal, "abort").length;
  const client = new TrustServiceClient(`localhost:${mesh.port}`, mesh.tls());
  const streams = Array.from({ length: 20 }, () => client.watchTrustBundle({}, bearer(mesh.token("n1"))));
  await Promise.all(streams.map((stream) => once(stream, "data")));
  expect(getEventListeners(mesh.stop.signal, "abort")).toHaveLength(before);
  const ended = streams.map((stream) => {
    stream.resume();
    return once(stream, "status");
  });
  mesh.stop.abort();
  await Promise.all(ended);
  client.close();
});

test("after a rotation new connections get a server certificate under the new root, old ones go on", async () => {
  await mesh.start();
  const before = mesh.client();
  const call = async (): Promise<Answer> => {
    const request = { csr: "", validityDuration: 0, metadata: undefined, ...(await requestFor(cart)) };
    return new Promise((resolve) =>
      before.createCertificate(request, bearer(mesh.token("n1")), (error, response) =>
        resolve(error ? { error } : { response }),
      ),
    );
  };
  expect((await call()).response).toBeDefined();
  mesh.authority.startRotation("root");
  mesh.authority.advance();
  mesh.authority.advance();
  expect(mesh.authority.state.phase).toBe("stable");
  expect((await call()).response, "on the connection made before").toBeDefined();
  expect(
    (await ask(bearer(mesh.token("n1")), await requestFor(cart))).response,
    "on a new one",
  ).toBeDefined();
  before.close();
});

test("a client that trusts another root does not talk to this control plane", async () => {
  await mesh.start();
  const other = new Mesh();
  const client = new IstioCertificateServiceClient(`localhost:${mesh.port}`, other.tls());
  const request = { csr: "", validityDuration: 0, metadata: undefined, ...(await requestFor(cart)) };
  const error = await new Promise<ServiceError | null>((resolve) =>
    client.createCertificate(request, bearer(mesh.token("n1")), { deadline: Date.now() + 3_000 }, (failure) =>
      resolve(failure),
    ),
  );
  expect([status.UNAVAILABLE, status.DEADLINE_EXCEEDED]).toContain(error?.code);
  expect(mesh.issued).toBe(0);
  client.close();
  await other.close();
});

test("TLS 1.2 and plain text are not served", async () => {
  await mesh.start();
  const old = tlsConnect({
    host: "127.0.0.1",
    port: mesh.port,
    maxVersion: "TLSv1.2",
    rejectUnauthorized: false,
  });
  await expect(new Promise((_resolve, reject) => old.on("error", reject))).rejects.toThrow(
    /protocol version|alert/i,
  );
  const plain = tcpConnect(mesh.port, "127.0.0.1");
  plain.write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
  plain.on("error", () => undefined);
  await new Promise((resolve) => plain.on("close", resolve).resume());
});

test("strangers make room for each other, and a node stays connected", async () => {
  await mesh.start();
  const node = new TrustServiceClient(`localhost:${mesh.port}`, mesh.tls());
  const watch = node.watchTrustBundle({}, bearer(mesh.token("n1")));
  const ends: unknown[] = [];
  watch.on("error", (error) => ends.push(error)).on("end", () => ends.push("end"));
  await once(watch, "data");
  expect(mesh.strangers.size).toBe(0);

  const closed = (socket: Socket): Promise<void> =>
    new Promise((resolve) =>
      socket
        .resume()
        .on("error", () => undefined)
        .on("close", () => resolve()),
    );
  const silent = Array.from({ length: 3 }, () => tcpConnect(mesh.port, "127.0.0.1"));
  const silentClosed = silent.map(closed);
  await vi.waitUntil(() => mesh.strangers.size === 3, { timeout: 20_000 });
  const encrypted = Array.from({ length: 4 }, () =>
    tlsConnect({ port: mesh.port, host: "127.0.0.1", ALPNProtocols: ["h2"], rejectUnauthorized: false }),
  );
  const encryptedClosed = encrypted.map(closed);
  await Promise.all([...silentClosed, ...encrypted.map((socket) => once(socket, "secureConnect"))]);
  expect(mesh.closedStrangers).toHaveLength(3);
  expect(mesh.strangers.size).toBe(4);

  // A connection whose handshake is over is as strange, and a node that comes now is not kept out.
  const { response } = await ask(bearer(mesh.token("n1")), await requestFor(cart));
  expect(response!.certChain).toHaveLength(3);
  await Promise.race(encryptedClosed);
  expect(mesh.closedStrangers).toHaveLength(4);
  for (const socket of encrypted) socket.destroy();
  await vi.waitUntil(() => mesh.strangers.size === 0, { timeout: 20_000 });
  expect(ends).toEqual([]);
  watch.cancel();
  node.close();
});

test("an address in use is named in the error", async () => {
  const holder = createServer();
  await new Promise<void>((resolve) => holder.listen(0, "127.0.0.1", resolve));
  const { port } = holder.address() as AddressInfo;
  await expect(
    listenTls({
      server: new Server(),
      authority: mesh.authority,
      addresses: [{ type: "tcp", host: "127.0.0.1", port }],
      names: [],
      strangers: mesh.strangers,
      clock: systemClock,
      log: mesh.log,
      signal: mesh.stop.signal,
      graceMs: 0,
    }),
  ).rejects.toThrow(`cannot listen on 127.0.0.1:${port}`);
  holder.close();
});
