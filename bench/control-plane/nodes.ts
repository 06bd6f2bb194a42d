/** Simulated nodes: each has a connection of its own, asks for its services by address, and acknowledges. */
import { type ClientDuplexStream, credentials, Metadata } from "@grpc/grpc-js";
import {
  AggregatedDiscoveryServiceClient,
  DeltaDiscoveryRequest,
  type DeltaDiscoveryResponse,
} from "../../src/gen/envoy/service/discovery/v3/ads.js";
import { Address } from "../../src/gen/istio/workload/workload.js";
import { addressType } from "../../src/xds/resource.js";
import { type NodesCommand, type NodesReport, percentiles, sharedNowMs } from "./messages.js";
import { nodeName, nodeOfPod, serviceIp, serviceOfPod, servicesOfNode, type WorldSize } from "./world.js";

const latencies: number[] = [];
let unasked = 0;
let settled = false;

function report(message: NodesReport): void {
  process.send?.(message);
}

class SimulatedNode {
  readonly held = new Set<string>();
  readonly #size: WorldSize;
  readonly #index: number;
  readonly #services: ReadonlySet<number>;
  readonly #stream: ClientDuplexStream<DeltaDiscoveryRequest, DeltaDiscoveryResponse>;
  readonly #onProgress: () => void;

  constructor(size: WorldSize, index: number, port: number, root: Buffer, onProgress: () => void) {
    this.#size = size;
    this.#index = index;
    this.#services = new Set(servicesOfNode(size, index));
    this.#onProgress = onProgress;
    const client = new AggregatedDiscoveryServiceClient(`127.0.0.1:${port}`, credentials.createSsl(root), {
      "grpc.use_local_subchannel_pool": 1,
      "grpc.ssl_target_name_override": "localhost",
    });
    const metadata = new Metadata();
    metadata.set("node", nodeName(index));
    this.#stream = client.deltaAggregatedResources(metadata);
    this.#stream.on("error", (error) => {
      process.stderr.write(`node ${index}: ${error.message}\n`);
      process.exit(1);
    });
    this.#stream.on("data", (response: DeltaDiscoveryResponse) => this.#receive(response));
    this.#send({
      node: {
        id: `ztunnel~127.0.0.1~${nodeName(index)}.mesh~mesh.svc.cluster.local`,
        cluster: "",
        buildVersion: "",
        userAgentName: "meltemi-node",
        metadata: { NODE_NAME: nodeName(index), MELTEMI_ON_DEMAND: "true" },
      },
      resourceNamesSubscribe: [...this.#services].map((service) => `/${serviceIp(service)}`),
      resourceNamesUnsubscribe: ["*"],
    });
  }

  /** Services asked for, their pods and the node's own. */
  get expected(): number {
    let pods = 0;
    for (let pod = 0; pod < this.#size.pods; pod++) if (this.#concerns(pod)) pods += 1;
    return pods + this.#services.size;
  }

  #concerns(pod: number): boolean {
    return this.#services.has(serviceOfPod(this.#size, pod)) || nodeOfPod(this.#size, pod) === this.#index;
  }

  #send(request: Partial<DeltaDiscoveryRequest>): void {
    this.#stream.write(DeltaDiscoveryRequest.fromPartial({ typeUrl: addressType, ...request }));
  }

  #receive(response: DeltaDiscoveryResponse): void {
    const atMs = sharedNowMs();
    let asked = false;
    for (const { name, resource } of response.resources) {
      this.held.add(name);
      const { type } = Address.decode(resource?.value ?? Buffer.alloc(0));
      if (!settled || type?.$case !== "workload") continue;
      const { addresses, canonicalRevision } = type.value;
      const [, high = 0, middle = 0, low = 0] = addresses[0] ?? [];
      if (!this.#concerns(((high - 1) << 16) | (middle << 8) | low)) continue;
      asked = true;
      latencies.push(atMs - Number(canonicalRevision.slice(1)));
    }
    if (settled && !asked) unasked += 1;
    this.#send({ responseNonce: response.nonce });
    this.#onProgress();
  }
}

function start(size: WorldSize, port: number, certificate: string): void {
  const startMs = performance.now();
  const root = Buffer.from(certificate);
  const nodes: SimulatedNode[] = [];
  const pending = new Set<SimulatedNode>();
  const expected = new Map<SimulatedNode, number>();
  for (let index = 0; index < size.nodes; index++) {
    const node = new SimulatedNode(size, index, port, root, () => {
      if (
        node.held.size < (expected.get(node) ?? Number.POSITIVE_INFINITY) ||
        !pending.delete(node) ||
        pending.size > 0
      )
        return;
      settled = true;
      const resources = nodes.reduce((sum, { held }) => sum + held.size, 0);
      report({ type: "settled", settledMs: performance.now() - startMs, resources });
    });
    expected.set(node, node.expected);
    nodes.push(node);
    pending.add(node);
  }
}

process.on("message", (command: NodesCommand) => {
  switch (command.type) {
    case "start":
      start(command.size, command.port, command.tls.certificate);
      return;
    case "results":
      report({ type: "results", arrived: latencies.length, unasked, latencyMs: percentiles(latencies) });
  }
});
process.on("disconnect", () => process.exit(0));
