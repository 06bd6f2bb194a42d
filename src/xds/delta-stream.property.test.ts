import { expect, test } from "vitest";
import { apply, namespace, pod, remove, service } from "../../test/helpers/mesh-objects.js";
import { SeededRandom } from "../../test/helpers/seeded-random.js";
import { Compiler } from "../compile/compiler.js";
import { defaultCompileConfig } from "../compile/config.js";
import type { MeshObject } from "../domain/objects.js";
import { Resource } from "../gen/envoy/service/discovery/v3/ads.js";
import { CompiledSnapshot } from "./compiled-snapshot.js";
import { type DeltaStream, DiscoveryHub } from "./delta-stream.js";
import { addressType, type DiscoveryClient } from "./resource.js";
import type { DeltaRequest, DeltaResponse } from "./subscription.js";

const empty: DeltaRequest = {
  subscribe: [],
  unsubscribe: [],
  initialVersions: new Map(),
  nonce: "",
  error: undefined,
};
const key = (name: string): string => `shop/${name}.shop.svc.cluster.local`;
const uid = (name: string): string => `Kubernetes//Pod/shop/${name}`;

/** A client that does exactly what the contract says, over a stream that may be slow and may break. */
class ModelClient {
  readonly held = new Map<string, string>();
  readonly negative = new Set<string>();
  readonly names = new Set<string>();
  readonly client: DiscoveryClient;
  readonly #hub: DiscoveryHub;
  readonly #wildcard: boolean;
  #stream: DeltaStream;
  #unanswered: DeltaResponse | undefined;

  constructor(hub: DiscoveryHub, node: string, wildcard: boolean) {
    this.#hub = hub;
    this.#wildcard = wildcard;
    this.client = { node, dialect: "meltemi", onDemand: !wildcard };
    this.#stream = hub.open(this.client, () => undefined);
    this.#begin();
  }

  #begin(): void {
    const subscribe = [...(this.#wildcard ? ["*"] : []), ...this.names];
    const unsubscribe = this.#wildcard ? [] : ["*"];
    this.#stream.request(addressType, {
      ...empty,
      subscribe,
      unsubscribe,
      initialVersions: new Map(this.held),
    });
  }

  reconnect(): void {
    this.#hub.closeStream(this.#stream);
    this.#unanswered = undefined;
    this.#stream = this.#hub.open(this.client, () => undefined);
    this.#begin();
  }

  subscribe(name: string): void {
    this.names.add(name);
    this.#stream.request(addressType, { ...empty, subscribe: [name] });
  }

  unsubscribe(name: string, isWantedOtherwise: (name: string) => boolean): void {
    this.names.delete(name);
    this.negative.delete(name);
    if (this.held.has(name) && !isWantedOtherwise(name)) this.held.delete(name);
    this.#stream.request(addressType, { ...empty, unsubscribe: [name] });
  }

  /** Takes the next response, if there is one, without answering it. */
  read(): boolean {
    const response = this.#stream.next();
    if (!response) return false;
    expect(this.#unanswered).toBeUndefined();
    this.#unanswered = response;
    for (const name of response.removed) {
      this.held.delete(name);
      if (this.names.has(name)) this.negative.add(name);
    }
    for (const bytes of response.resources) {
      const { name, aliases, version } = Resource.decode(bytes);
      this.held.set(name, version);
      for (const known of [name, ...aliases]) this.negative.delete(known);
    }
    return true;
  }

  answer(): void {
    if (!this.#unanswered) return;
    this.#stream.request(addressType, { ...empty, nonce: this.#unanswered.nonce });
    this.#unanswered = undefined;
  }

  settle(): void {
    this.answer();
    while (this.read()) this.answer();
  }
}

/** What the client must hold, found by the plain rule. */
function expected(
  snapshot: CompiledSnapshot,
  client: ModelClient,
  wildcard: boolean,
): { held: Map<string, string>; negative: Set<string> } {
  const negative = new Set<string>();
  const wanted = new Set<string>(
    wildcard ? snapshot.names(addressType) : snapshot.onNode(client.client.node),
  );
  for (const name of client.names) {
    const lookup = snapshot.lookup(addressType, name);
    if (lookup.state !== "found") negative.add(name);
    else
      for (const one of [lookup.resource.name, ...snapshot.dependents(lookup.resource.name)]) wanted.add(one);
  }
  const versions = [...wanted].map(
    (name) => [name, snapshot.get(addressType, name)?.version(addressType, "meltemi") ?? ""] as const,
  );
  return { held: new Map(versions), negative };
}

test.each(Array.from({ length: 100 }, (_, seed) => seed + 1))(
  "seed %i: once quiet, the client holds what it asked for",
  (seed) => {
    const random = new SeededRandom(seed);
    const pick = <T>(list: readonly T[]): T => list[Math.floor(random.uniform() * list.length)]!;
    const apps = ["a", "b", "c"];
    const nodes = ["n1", "n2"];
    const podNames = Array.from({ length: 8 }, (_, index) => `p${index}`);
    const compiler = new Compiler(defaultCompileConfig);
    const snapshot = new CompiledSnapshot();
    const hub = new DiscoveryHub(snapshot, () => 0);
    const take = (events: Parameters<Compiler["apply"]>[0]): void =>
      snapshot.applyChange(compiler.apply(events));
    const wildcard = seed % 5 === 0;
    const client = new ModelClient(hub, "n1", wildcard);
    const askable = [
      ...apps.map(key),
      ...apps.map((_, index) => `/10.96.0.${index}`),
      ...podNames.map(uid),
      ...podNames.map((_, index) => `/10.0.0.${index}`),
      "/192.0.2.1",
    ];
    const anyPod = (): MeshObject => {
      const name = pick(podNames);
      const ip = `10.0.0.${Math.floor(random.uniform() * podNames.length)}`;
      return pod(
        "shop",
        name,
        ip,
        { app: pick(apps) },
        { nodeName: pick(nodes), ready: random.uniform() < 0.5 },
      );
    };
    const anyService = (): MeshObject => {
      const app = pick(apps);
      return service("shop", app, `10.96.0.${Math.floor(random.uniform() * apps.length)}`, { app });
    };

    for (let step = 0; step < 250; step++) {
      const dice = random.uniform();
      if (dice < 0.3) take(apply(anyPod()));
      else if (dice < 0.4) take(apply(anyService()));
      else if (dice < 0.45) take([remove(anyPod())]);
      else if (dice < 0.5) take([remove(anyService())]);
      else if (dice < 0.52)
        take(apply(namespace("shop", { "istio.io/dataplane-mode": pick(["ambient", "none"]) })));
      else if (dice < 0.65) client.subscribe(pick(askable));
      else if (dice < 0.72) {
        const name = pick(askable);
        // As the contract has it: what is wanted for another reason stays, and the server goes on telling of it.
        client.settle();
        if (client.names.has(name)) {
          client.names.delete(name);
          const rest = expected(snapshot, client, wildcard).held;
          client.names.add(name);
          client.unsubscribe(name, (one) => rest.has(one));
        }
      } else if (dice < 0.75) client.reconnect();
      else if (dice < 0.9) {
        if (!client.read()) client.answer();
      } else client.answer();
    }
    client.settle();
    const { held, negative } = expected(snapshot, client, wildcard);
    expect(new Map([...client.held].sort())).toEqual(new Map([...held].sort()));
    expect([...client.negative].sort()).toEqual([...negative].sort());
    hub.close();
  },
);
