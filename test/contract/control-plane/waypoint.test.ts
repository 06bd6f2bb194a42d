/** What a control plane tells a waypoint, and what it refuses it: real gRPC, TLS and tokens. */
import "reflect-metadata";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import {
  type ChannelCredentials,
  type ClientDuplexStream,
  credentials,
  Metadata,
  type ServiceError,
  status as grpcCode,
} from "@grpc/grpc-js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  AggregatedDiscoveryServiceClient,
  DeltaDiscoveryRequest,
  type DeltaDiscoveryResponse,
} from "../../../src/gen/envoy/service/discovery/v3/ads.js";
import { IstioCertificateServiceClient } from "../../../src/gen/istio/v1/auth/ca.js";
import { HttpRoute } from "../../../src/gen/meltemi/v1/waypoint.js";
import { addressType, type TypeUrl } from "../../../src/xds/resource.js";
import { configTypeOf, type ConfigType } from "../../../src/xds/waypoint/config-type.js";
import { ControlPlaneProcess } from "../../helpers/control-plane-process.js";
import { makeRequest } from "../../helpers/csr.js";
import { eventually } from "../../helpers/eventually.js";

const plane = new ControlPlaneProcess();
const gateway = (name: string, ip: string): string => `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: ${name}, namespace: shop, annotations: { meltemi.io/netns: ${name} } }
spec:
  gatewayClassName: meltemi-waypoint
  addresses: [{ value: ${ip} }]
  listeners: [{ name: mesh, port: 15008, protocol: HBONE }]
`;
const service = (name: string, ip: string, waypoint: string): string => `
apiVersion: v1
kind: Service
metadata: { name: ${name}, namespace: shop, labels: { istio.io/use-waypoint: ${waypoint} } }
spec: { clusterIP: ${ip}, selector: { app: ${name} }, ports: [{ name: http, port: 80 }] }
`;
const route = (weight: number): string => `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: canary, namespace: shop }
spec:
  parentRefs: [{ group: "", kind: Service, name: catalog }]
  rules: [{ backendRefs: [{ name: catalog, port: 80, weight: ${weight} }, { name: stock, port: 80 }] }]
`;
const pod = (app: string, ip: string): string => `
apiVersion: v1
kind: Pod
metadata: { name: ${app}-1, namespace: shop, labels: { app: ${app}, istio.io/dataplane-mode: ambient }, annotations: { meltemi.io/netns: ${app} } }
spec: { nodeName: n1, serviceAccountName: ${app}, containers: [{ name: c, image: x }] }
status: { podIP: ${ip}, phase: Running }
`;

let target = "";
let tls: ChannelCredentials;

beforeAll(async () => {
  const objects = [
    gateway("front", "10.9.1.1"),
    gateway("back", "10.9.1.2"),
    service("catalog", "10.96.0.1", "front"),
    service("stock", "10.96.0.2", "back"),
    service("lone", "10.96.0.3", "none"),
    pod("catalog", "10.9.0.2"),
  ];
  plane.write("shop.yaml", objects.join("---"));
  plane.write("route.yaml", route(9));
  await plane.start();
  const { control_plane } = await plane.json<{ control_plane: { listen: string[] } }>("status");
  target = control_plane.listen[0] ?? "";
  tls = credentials.createSsl(readFileSync(join(plane.run, "root-cert.pem")));
}, 60_000);
afterAll(() => plane.remove());

const options = { "grpc.ssl_target_name_override": "localhost" };

function bearer(kind: "waypoint-tokens" | "tokens", name: string): Metadata {
  const metadata = new Metadata();
  metadata.set("authorization", `Bearer ${readFileSync(join(plane.state, kind, name), "utf8").trim()}`);
  return metadata;
}

/** One type on one stream: what is held by name, and how the stream ended. */
class Watch {
  readonly held = new Map<string, Buffer>();
  answers = 0;
  error: ServiceError | undefined;
  readonly #client = new AggregatedDiscoveryServiceClient(target, tls, options);
  readonly #stream: ClientDuplexStream<DeltaDiscoveryRequest, DeltaDiscoveryResponse>;

  constructor(metadata: Metadata, node: string, type: ConfigType | TypeUrl) {
    this.#stream = this.#client.deltaAggregatedResources(metadata);
    this.#stream.on("error", (error: ServiceError) => (this.error = error));
    this.#stream.on("data", (response: DeltaDiscoveryResponse) => {
      this.answers += 1;
      for (const { name, resource } of response.resources)
        this.held.set(name, resource?.value ?? Buffer.alloc(0));
      for (const name of response.removedResources) this.held.delete(name);
      this.#stream.write(DeltaDiscoveryRequest.fromPartial({ typeUrl: type, responseNonce: response.nonce }));
    });
    this.#stream.write(
      DeltaDiscoveryRequest.fromPartial({
        typeUrl: type,
        resourceNamesSubscribe: ["*"],
        node: { id: "w", userAgentName: "meltemi-proxy", metadata: node === "" ? {} : { NODE_NAME: node } },
      }),
    );
  }

  names(): Promise<string[]> {
    return eventually("an answer", () => {
      if (this.error) throw this.error;
      return this.answers > 0 && [...this.held.keys()].sort();
    });
  }

  close(): void {
    this.#stream.cancel();
    this.#client.close();
  }
}

describe("a waypoint", () => {
  test("is told what is its own, and a change of it", async () => {
    const front = new Watch(bearer("waypoint-tokens", "shop.front"), "", configTypeOf.http_route);
    const back = new Watch(bearer("waypoint-tokens", "shop.back"), "", configTypeOf.http_route);
    const served = new Watch(bearer("waypoint-tokens", "shop.back"), "", configTypeOf.served);
    try {
      expect(await front.names()).toEqual(["HTTPRoute/shop/canary"]);
      expect(await back.names()).toEqual([]);
      expect(await served.names()).toEqual(["shop/stock.shop.svc.cluster.local"]);
      const weight = (): number | undefined =>
        HttpRoute.decode(front.held.get("HTTPRoute/shop/canary") ?? Buffer.alloc(0)).rules[0]?.backends[0]
          ?.weight;
      expect(weight()).toBe(9);
      const editedMs = performance.now();
      plane.write("route.yaml", route(1));
      await eventually("the new weight", () => weight() === 1);
      process.stdout.write(
        `route at the waypoint ${Math.round(performance.now() - editedMs)} ms after its file\n`,
      );
      expect(back.answers, "nothing of another's was told").toBe(1);
    } finally {
      for (const watch of [front, back, served]) watch.close();
    }
  });

  test("is told of the mesh what it serves and sends to, and nothing of a change elsewhere", async () => {
    const front = new Watch(bearer("waypoint-tokens", "shop.front"), "", addressType);
    const back = new Watch(bearer("waypoint-tokens", "shop.back"), "", addressType);
    const own = (name: string): string => `Kubernetes/gateway.networking.k8s.io/Gateway/shop/${name}`;
    const host = (name: string): string => `shop/${name}.shop.svc.cluster.local`;
    try {
      const expected = ["Kubernetes//Pod/shop/catalog-1", own("front"), host("catalog"), host("stock")];
      expect(await front.names()).toEqual(expected);
      expect(await back.names()).toEqual([own("back"), host("stock")]);
      const answers = front.answers;
      plane.write("more.yaml", `${pod("stock", "10.9.0.3")}---${pod("lone", "10.9.0.4")}`);
      await eventually("an endpoint", () => back.held.has("Kubernetes//Pod/shop/stock-1"));
      await eventually("a backend's endpoint", () => front.held.has("Kubernetes//Pod/shop/stock-1"));
      expect(front.answers).toBe(answers + 1);
      plane.write("more.yaml", pod("stock", "10.9.0.3"));
      plane.write("last.yaml", pod("catalog", "10.9.0.5").replace("catalog-1", "catalog-2"));
      await eventually("its own endpoint", () => front.held.has("Kubernetes//Pod/shop/catalog-2"));
      expect(front.answers, "of the pod that went it was never told").toBe(answers + 2);
      expect([...back.held.keys(), ...front.held.keys()].join()).not.toContain("lone");
    } finally {
      front.close();
      back.close();
    }
  });

  test("is nobody else: a node's token is told no waypoint's configuration", async () => {
    const node = new Watch(bearer("tokens", "n1"), "n1", configTypeOf.http_route);
    try {
      const error = await eventually("a refusal", () => node.error);
      expect(error.code).toBe(grpcCode.PERMISSION_DENIED);
      expect(node.answers).toBe(0);
    } finally {
      node.close();
    }
  });

  test("cannot pass for a node", async () => {
    const other = new Watch(bearer("waypoint-tokens", "shop.front"), "n1", configTypeOf.http_route);
    try {
      expect((await eventually("a refusal", () => other.error)).code).toBe(grpcCode.PERMISSION_DENIED);
    } finally {
      other.close();
    }
  });

  test("gets a certificate of its own name, and of no other", async () => {
    const client = new IstioCertificateServiceClient(target, tls, options);
    const ask = async (metadata: Metadata, account: string): Promise<number | string> => {
      const identity = `spiffe://cluster.local/ns/shop/sa/${account}`;
      const { pem: csr } = await makeRequest({ uris: [identity] });
      return new Promise((resolve) => {
        client.createCertificate(
          { csr, validityDuration: 3600, metadata: { ImpersonatedIdentity: identity } },
          metadata,
          (error, response) =>
            resolve(error ? error.code : response.certChain.length > 1 ? "issued" : "short"),
        );
      });
    };
    try {
      expect(await ask(bearer("waypoint-tokens", "shop.front"), "front")).toBe("issued");
      for (const other of ["back", "catalog"]) {
        expect(await ask(bearer("waypoint-tokens", "shop.front"), other), other).toBe(
          grpcCode.PERMISSION_DENIED,
        );
      }
      expect(await ask(bearer("tokens", "n1"), "front"), "a node").toBe(grpcCode.PERMISSION_DENIED);
      expect(await ask(bearer("tokens", "n1"), "catalog")).toBe("issued");
    } finally {
      client.close();
    }
  });
});
