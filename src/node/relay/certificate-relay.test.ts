import {
  credentials,
  Metadata,
  Server,
  ServerCredentials,
  status,
  type ServerUnaryCall,
  type sendUnaryData,
} from "@grpc/grpc-js";
import { describe, expect, it, onTestFinished } from "vitest";
import { RecordingLogger } from "../../../test/helpers/recording-logger.js";
import {
  IstioCertificateRequest,
  IstioCertificateServiceClient,
  IstioCertificateServiceService,
  type IstioCertificateResponse,
} from "../../gen/istio/v1/auth/ca.js";
import { systemClock } from "../../platform/clock.js";
import { CertificateRelay } from "./certificate-relay.js";

type Handler = (
  call: ServerUnaryCall<IstioCertificateRequest, IstioCertificateResponse>,
  done: sendUnaryData<IstioCertificateResponse>,
) => void;

async function serve(createCertificate: Handler): Promise<string> {
  const server = new Server();
  server.addService(IstioCertificateServiceService, { createCertificate });
  onTestFinished(() => server.forceShutdown());
  return new Promise((resolve, reject) => {
    server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, port) =>
      error ? reject(error) : resolve(`127.0.0.1:${port}`),
    );
  });
}

/** A relay to a CA that answers as told, and what its client gets. */
async function start(ca: Handler) {
  const target = await serve(ca);
  const results: string[] = [];
  const metadata = new Metadata();
  metadata.set("authorization", "Bearer node-token");
  const relay = new CertificateRelay({
    trustDomain: "cluster.local",
    upstream: () =>
      Promise.resolve({ target, credentials: credentials.createInsecure(), metadata, options: {} }),
    hosts: (namespace, serviceAccount) => namespace === "default" && serviceAccount === "a",
    deadlineMs: 300,
    clock: systemClock,
    log: new RecordingLogger(),
    onResult: (result) => results.push(result),
  });
  const client = new IstioCertificateServiceClient(
    await serve(relay.createCertificate),
    credentials.createInsecure(),
  );
  onTestFinished(() => client.close());
  const ask = (identity: unknown): Promise<readonly string[] | { code: number; details: string }> =>
    new Promise((resolve) => {
      const request = IstioCertificateRequest.fromPartial({
        csr: "CSR",
        validityDuration: 60,
        metadata: { ImpersonatedIdentity: identity },
      });
      client.createCertificate(request, (error, response) =>
        resolve(error ? { code: error.code, details: error.details } : response.certChain),
      );
    });
  return { ask, results };
}

describe("the certificate relay", () => {
  it("passes a request on with the node's own token", async () => {
    const { ask, results } = await start((call, done) => {
      const token = call.metadata.get("authorization").join();
      done(null, { certChain: [`${call.request.csr} ${call.request.validityDuration} ${token}`] });
    });
    expect(await ask("spiffe://cluster.local/ns/default/sa/a")).toEqual(["CSR 60 Bearer node-token"]);
    expect(results).toEqual(["issued"]);
  });

  it.each([
    [
      "another pod's",
      "spiffe://cluster.local/ns/default/sa/b",
      status.PERMISSION_DENIED,
      /default\/b runs on this node/,
    ],
    [
      "another domain's",
      "spiffe://evil/ns/default/sa/a",
      status.PERMISSION_DENIED,
      /cluster\.local, not evil/,
    ],
    ["one that is none", "spiffe://cluster.local/ns/../sa/a", status.INVALID_ARGUMENT, /not an identity/],
    ["none", undefined, status.INVALID_ARGUMENT, /ImpersonatedIdentity/],
    ["one of the wrong kind", 7, status.INVALID_ARGUMENT, /ImpersonatedIdentity/],
  ])("refuses %s identity without asking the CA", async (_whose, identity, code, details) => {
    let asked = 0;
    const { ask, results } = await start((_, done) => {
      asked += 1;
      done(null, { certChain: [] });
    });
    expect(await ask(identity)).toEqual({ code, details: expect.stringMatching(details) as string });
    expect(asked).toBe(0);
    expect(results).toEqual(["refused"]);
  });

  it("passes on the CA's own refusal", async () => {
    const { ask, results } = await start((_, done) =>
      done({ code: status.FAILED_PRECONDITION, details: "identity is refused" }),
    );
    expect(await ask("spiffe://cluster.local/ns/default/sa/a")).toEqual({
      code: status.FAILED_PRECONDITION,
      details: "identity is refused",
    });
    expect(results).toEqual(["failed"]);
  });

  it("does not ask the CA for a caller that has left before there is a connection to it", async () => {
    let asked = 0;
    let connected: () => void = () => undefined;
    const connection = new Promise<void>((resolve) => (connected = resolve));
    const target = await serve((_, done) => {
      asked += 1;
      done(null, { certChain: [] });
    });
    let over: (result: string) => void = () => undefined;
    const result = new Promise<string>((resolve) => (over = resolve));
    const relay = new CertificateRelay({
      trustDomain: "cluster.local",
      upstream: async () => {
        await connection;
        return {
          target,
          credentials: credentials.createInsecure(),
          metadata: new Metadata(),
          options: {},
        };
      },
      hosts: () => true,
      deadlineMs: 10_000,
      clock: systemClock,
      log: new RecordingLogger(),
      onResult: over,
    });
    const client = new IstioCertificateServiceClient(
      await serve((call, done) => {
        call.once("cancelled", connected);
        relay.createCertificate(call, done);
        asking.cancel();
      }),
      credentials.createInsecure(),
    );
    onTestFinished(() => client.close());
    const request = IstioCertificateRequest.fromPartial({
      csr: "CSR",
      metadata: { ImpersonatedIdentity: "spiffe://cluster.local/ns/default/sa/a" },
    });
    const asking = client.createCertificate(request, () => undefined);
    expect(await result).toBe("failed");
    expect(asked).toBe(0);
  });

  it("does not wait for a CA that does not answer", async () => {
    const { ask } = await start(() => undefined);
    expect(await ask("spiffe://cluster.local/ns/default/sa/a")).toMatchObject({
      code: status.DEADLINE_EXCEEDED,
    });
  });
});
