/** The whole control plane over an API server's protocol: what a cluster's agent can get from it, and what a stolen token cannot. */
import { credentials, Metadata, status, type ServiceError } from "@grpc/grpc-js";
import { X509Certificate } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import {
  IstioCertificateServiceClient,
  type IstioCertificateResponse,
} from "../../../src/gen/istio/v1/auth/ca.js";
import { readControlPlaneOptions } from "../../../src/main/control-plane/options.js";
import { runControlPlane } from "../../../src/main/control-plane/run.js";
import { collectionsOf, meshResources } from "../../../src/sources/kube/resources.js";
import { makeRequest } from "../../helpers/csr.js";
import { eventually } from "../../helpers/eventually.js";
import { KubeApiDouble, type StoredObject } from "../../helpers/kube-api-double.js";

const maps = "/api/v1/configmaps";
const agentAccount = "system:serviceaccount:meltemi-system:meltemi-node";
const cart = "spiffe://cluster.local/ns/shop/sa/cart";
const pay = "spiffe://cluster.local/ns/shop/sa/pay";

const directory = mkdtempSync(join(tmpdir(), "meltemi-cluster-"));
const stop = new AbortController();
let double: KubeApiDouble;
let running: Promise<void>;
let port: number;

/** A token as a kubelet gets it for a pod; the API server's double knows it by what it says. */
function token(claims: { sub: string; aud?: string; node?: string }): string {
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");
  const { sub, aud = "istio-ca", node } = claims;
  const exp = Math.floor(Date.now() / 1000) + 3_600;
  return `${part({ alg: "RS256" })}.${part({ sub, aud: [aud], exp, node })}.c2lnbmF0dXJl`;
}

function review(body: unknown): object {
  const { token: given, audiences } = (body as { spec: { token: string; audiences: string[] } }).spec;
  const payload = given.split(".")[1] ?? "";
  const { sub, aud, node } = JSON.parse(Buffer.from(payload, "base64url").toString()) as {
    sub: string;
    aud: string[];
    node?: string;
  };
  const extra = node === undefined ? {} : { "authentication.kubernetes.io/node-name": [node] };
  return {
    status: {
      authenticated: true,
      audiences: aud.filter((one) => audiences.includes(one)),
      user: { username: sub, extra },
    },
  };
}

const pod = (name: string, node: string, ip: string): StoredObject => ({
  metadata: { namespace: "shop", name, uid: `uid-${name}` },
  spec: { nodeName: node, serviceAccountName: name, containers: [{ name: "app" }] },
  status: { phase: "Running", podIP: ip, conditions: [{ type: "Ready", status: "True" }] },
});

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const found = (server.address() as AddressInfo).port;
  await new Promise((resolve) => server.close(resolve));
  return found;
}

const root = (namespace: string, name = "meltemi-ca-root-cert"): string | undefined =>
  (double.get(maps, namespace, name)?.["data"] as Record<string, string> | undefined)?.["root-cert.pem"];

beforeAll(async () => {
  double = await KubeApiDouble.start(({ path, body }) =>
    path === "/apis/authentication.k8s.io/v1/tokenreviews" ? { status: 201, body: review(body) } : undefined,
  );
  const builtIn = meshResources().filter((resource) => resource.builtIn);
  double.serve(
    ...builtIn.flatMap((resource) => collectionsOf(resource)).map(({ paths }) => paths[0]?.path ?? ""),
    ...["/api/v1/secrets", maps, "/api/v1/namespaces/meltemi-system/pods"],
  );
  double.put("/api/v1/namespaces", {
    metadata: { name: "shop", labels: { "istio.io/dataplane-mode": "ambient" } },
  });
  double.put("/api/v1/namespaces", { metadata: { name: "meltemi-system" } });
  double.put("/api/v1/pods", pod("cart", "n1", "10.0.0.1"));
  double.put("/api/v1/pods", pod("pay", "n2", "10.0.0.2"));

  const kubeconfig = join(directory, "kubeconfig");
  writeFileSync(
    kubeconfig,
    JSON.stringify({
      clusters: [
        {
          name: "double",
          cluster: { server: double.access.server.origin, "insecure-skip-tls-verify": true },
        },
      ],
      users: [{ name: "test", user: { token: "test" } }],
      contexts: [{ name: "test", context: { cluster: "double", user: "test" } }],
      "current-context": "test",
    }),
  );
  port = await freePort();
  const flags = {
    kubeconfig,
    listen: `127.0.0.1:${port}`,
    stateDir: join(directory, "state"),
    runDir: join(directory, "run"),
    namespace: "meltemi-system",
    nodeAccounts: "meltemi-system/meltemi-node",
    trustDomain: "cluster.local",
    clusterId: "Kubernetes",
    network: "",
    rootNamespace: "meltemi-system",
    certificateTtlS: "86400",
    rotationSettleMs: "0",
    rotationDeadlineMs: "86400000",
    logLevel: "error",
    logFormat: "json",
  };
  running = runControlPlane(readControlPlaneOptions(flags, {}), stop.signal);
  running.catch(() => undefined);
  await eventually("the root in the namespace of the pods", () =>
    Promise.resolve(root("shop") !== undefined),
  );
});

afterAll(async () => {
  stop.abort();
  await running;
  await double.close();
  rmSync(directory, { recursive: true, force: true });
});

async function certificate(bearer: string, identity: string): Promise<IstioCertificateResponse> {
  const client = new IstioCertificateServiceClient(
    `localhost:${port}`,
    credentials.createSsl(Buffer.from(root("shop") ?? "")),
  );
  const metadata = new Metadata();
  metadata.set("authorization", `Bearer ${bearer}`);
  const { pem } = await makeRequest({ uris: [identity] });
  const request = { csr: pem, validityDuration: 3_600, metadata: { ImpersonatedIdentity: identity } };
  try {
    return await new Promise((resolve, reject) =>
      client.createCertificate(request, metadata, { deadline: Date.now() + 10_000 }, (error, answer) =>
        error === null ? resolve(answer) : reject(error),
      ),
    );
  } finally {
    client.close();
  }
}

const refusal = async (bearer: string, identity: string): Promise<number | undefined> =>
  certificate(bearer, identity).then(
    () => undefined,
    (error: unknown) => (error as ServiceError).code,
  );

test("the published root is what the control plane's own certificate and the pods' lead to", async () => {
  expect(root("meltemi-system")).toBe(root("shop"));
  expect(root("shop", "istio-ca-root-cert")).toBe(root("shop"));
  const { certChain } = await certificate(token({ sub: agentAccount, node: "n1" }), cart);
  expect(new X509Certificate(certChain[0] ?? "").subjectAltName).toBe(`URI:${cart}`);
  expect(certChain.at(-1)).toBe(root("shop"));
});

test("an agent's token, stolen, is good for the identities of its own node's pods and no others", async () => {
  const stolen = token({ sub: agentAccount, node: "n1" });
  expect(await refusal(stolen, cart)).toBeUndefined();
  expect(await refusal(stolen, pay)).toBe(status.PERMISSION_DENIED);
  expect(await refusal(stolen, "spiffe://cluster.local/ns/meltemi-system/sa/meltemi-control-plane")).toBe(
    status.PERMISSION_DENIED,
  );
  expect(await refusal(stolen, "spiffe://other/ns/shop/sa/cart")).toBe(status.PERMISSION_DENIED);
}, 30_000);

test("a pod's own token, and one made for somebody else, are good for nothing", async () => {
  expect(await refusal(token({ sub: "system:serviceaccount:shop:cart", node: "n1" }), cart)).toBe(
    status.UNAUTHENTICATED,
  );
  expect(
    await refusal(token({ sub: agentAccount, aud: "https://kubernetes.default.svc", node: "n1" }), cart),
  ).toBe(status.UNAUTHENTICATED);
  expect(await refusal(token({ sub: agentAccount }), cart)).toBe(status.UNAUTHENTICATED);
});

test("an identity goes where its pod goes", async () => {
  const [first, second] = ["n1", "n2"].map((node) => token({ sub: agentAccount, node }));
  double.delete("/api/v1/pods", "shop", "cart");
  double.put("/api/v1/pods", pod("cart-2", "n2", "10.0.0.3"));
  double.put("/api/v1/pods", {
    ...pod("cart-2", "n2", "10.0.0.3"),
    spec: { nodeName: "n2", serviceAccountName: "cart", containers: [{ name: "app" }] },
  });
  await eventually(
    "the identity on the second node",
    async () => (await refusal(second ?? "", cart)) === undefined,
  );
  expect(await refusal(first ?? "", cart)).toBe(status.PERMISSION_DENIED);
}, 30_000);
