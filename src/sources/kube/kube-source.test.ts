import { Registry } from "prom-client";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { eventually } from "../../../test/helpers/eventually.js";
import { KubeApiDouble, type StoredObject } from "../../../test/helpers/kube-api-double.js";
import { RecordingLogger } from "../../../test/helpers/recording-logger.js";
import type { SourceBatch } from "../../domain/source-event.js";
import { systemClock } from "../../platform/clock.js";
import { systemRandom } from "../../platform/random.js";
import { KubeSource, type KubeSourceOptions } from "./kube-source.js";
import { KubeMetrics } from "./metrics.js";
import { collectionsOf, meshResources } from "./resources.js";

const pods = "/api/v1/pods";
const namespaces = "/api/v1/namespaces";
const policies = "/apis/security.istio.io/v1/authorizationpolicies";
const oldPolicies = "/apis/security.istio.io/v1beta1/authorizationpolicies";

const builtIn = meshResources()
  .filter((resource) => resource.builtIn)
  .flatMap((resource) => collectionsOf(resource))
  .map(({ paths }) => paths[0]?.path ?? "");

const pod = (name: string, more: { node?: string; ip?: string; metadata?: object } = {}): StoredObject => ({
  metadata: { namespace: "shop", name, uid: `uid-${name}`, ...more.metadata },
  spec: { nodeName: more.node ?? "n1", containers: [{ name: "app" }] },
  status: { phase: "Running", podIP: more.ip ?? "10.0.0.1", conditions: [{ type: "Ready", status: "True" }] },
});

const policy = (name: string, action: string): StoredObject => ({
  metadata: { namespace: "shop", name },
  spec: { action, rules: [{}] },
});

/** A source that runs, with what it has told: the objects in force, and every event by name. */
class Run {
  readonly batches: SourceBatch[] = [];
  readonly events: string[] = [];
  readonly inForce = new Set<string>();
  readonly log = new RecordingLogger();
  readonly registry = new Registry();
  readonly source: KubeSource;
  readonly #stop = new AbortController();
  readonly #ended: Promise<void>;

  constructor(double: KubeApiDouble, options: Partial<KubeSourceOptions> = {}) {
    this.source = new KubeSource({
      api: double.api,
      cluster: "Kubernetes",
      clock: systemClock,
      random: systemRandom,
      log: this.log,
      metrics: new KubeMetrics(this.registry, systemClock),
      ...options,
    });
    this.#ended = this.source.run((batch) => this.#take(batch), this.#stop.signal);
  }

  #take(batch: SourceBatch): void {
    this.batches.push(batch);
    for (const event of batch.events) {
      const [kind, namespace, name] =
        event.type === "apply"
          ? [event.object.kind, event.object.meta.namespace, event.object.meta.name]
          : [event.kind, event.namespace, event.name];
      const key = `${kind} ${namespace}/${name}`;
      this.events.push(`${event.type} ${key}`);
      if (event.type === "apply") this.inForce.add(key);
      else this.inForce.delete(key);
    }
  }

  get problems(): readonly string[] {
    return (this.batches.at(-1)?.problems ?? []).map(
      ({ object, message }) => `${object?.kind ?? ""} ${object?.name ?? ""}: ${message}`,
    );
  }

  async has(...keys: readonly string[]): Promise<void> {
    await eventually(`${keys.join(", ")} in force`, () =>
      Promise.resolve(keys.every((key) => this.inForce.has(key))),
    );
  }

  async lacks(key: string): Promise<void> {
    await eventually(`${key} gone`, () => Promise.resolve(!this.inForce.has(key)));
  }

  async end(): Promise<void> {
    this.#stop.abort();
    await this.#ended;
  }
}

describe("a cluster as a source", () => {
  let double: KubeApiDouble;
  const runs: Run[] = [];

  const start = (options?: Partial<KubeSourceOptions>): Run => {
    const run = new Run(double, options);
    runs.push(run);
    return run;
  };

  beforeEach(async () => {
    double = await KubeApiDouble.start();
    double.serve(...builtIn);
  });

  afterEach(async () => {
    for (const run of runs.splice(0)) await run.end();
    await double.close();
  });

  it("tells one complete first state, from as many pages as it takes", async () => {
    for (let index = 0; index < 1_203; index++) double.put(pods, pod(`p${index}`));
    double.put(namespaces, { metadata: { name: "shop" } });
    const run = start();
    await run.has("Pod shop/p1202", "Namespace /shop");
    expect(run.batches).toHaveLength(1);
    expect(run.inForce.size).toBe(1_204);
    expect(double.requests.filter((one) => one.startsWith(`GET ${pods}?limit=500`))).toHaveLength(3);
    expect(run.source.waiting).toEqual([]);
  });

  it("takes pages again when the whole, which it asked for after they had expired, does not come", async () => {
    double.put(pods, pod("p"));
    double.fail(pods, 410, 1);
    double.fail(pods, 503, 1);
    const run = start({ kinds: ["Pod"] });
    await run.has("Pod shop/p");
    const lists = double.requests.filter((one) => one.includes(pods) && !one.includes("watch=true"));
    expect(lists.map((one) => one.includes("limit=500"))).toEqual([true, false, true]);
  });

  it("waits with the first state until every kind has been listed", async () => {
    double.put(pods, pod("p"));
    double.fail(namespaces, 503, 3);
    const run = start();
    await eventually("pods listed", () => Promise.resolve(!run.source.waiting.includes("Pod")));
    expect(run.source.waiting).toContain("Namespace");
    expect(run.batches).toHaveLength(0);
    await run.has("Pod shop/p");
    expect(run.batches).toHaveLength(1);
  });

  it("follows additions, changes and removals, and is silent about what changes nothing here", async () => {
    const run = start({ kinds: ["Pod"] });
    await eventually("a watch", () => Promise.resolve(double.watchers(pods) === 1));
    double.put(pods, pod("p"));
    await run.has("Pod shop/p");
    double.put(pods, pod("p", { metadata: { managedFields: [{ manager: "kubelet" }] } }));
    double.put(pods, pod("p", { ip: "10.0.0.2" }));
    double.delete(pods, "shop", "p");
    await run.lacks("Pod shop/p");
    expect(run.events).toEqual(["apply Pod shop/p", "apply Pod shop/p", "remove Pod shop/p"]);
  });

  it("goes on after a stream that ends or breaks, without a list and without a gap", async () => {
    double.put(pods, pod("a"));
    const run = start({ kinds: ["Pod"] });
    await run.has("Pod shop/a");
    await eventually("a watch", () => Promise.resolve(double.watchers(pods) === 1));
    double.disconnect("break");
    double.put(pods, pod("b"));
    await run.has("Pod shop/b");
    double.disconnect("end");
    double.delete(pods, "shop", "a");
    await run.lacks("Pod shop/a");
    expect(run.events).toEqual(["apply Pod shop/a", "apply Pod shop/b", "remove Pod shop/a"]);
    expect(double.requests.filter((one) => one.includes("limit="))).toHaveLength(1);
  });

  it("lists anew when history has expired: what is still there is not touched, what went is removed", async () => {
    for (const name of ["a", "b", "c"]) double.put(pods, pod(name));
    const run = start({ kinds: ["Pod"] });
    await run.has("Pod shop/a", "Pod shop/b", "Pod shop/c");
    run.events.length = 0;
    double.compact();
    double.delete(pods, "shop", "b");
    double.put(pods, pod("d"));
    double.compact();
    await run.lacks("Pod shop/b");
    await run.has("Pod shop/d");
    expect([...run.events].sort()).toEqual(["apply Pod shop/d", "remove Pod shop/b"]);
  });

  it("watches on from the last bookmark, so that quiet kinds survive a compaction elsewhere", async () => {
    double.put(namespaces, { metadata: { name: "shop" } });
    const run = start({ kinds: ["Namespace", "Pod"] });
    await run.has("Namespace /shop");
    await eventually("watches", () =>
      Promise.resolve(double.watchers(pods) === 1 && double.watchers(namespaces) === 1),
    );
    for (let index = 0; index < 5; index++) double.put(pods, pod(`p${index}`));
    double.bookmark(namespaces);
    await run.has("Pod shop/p4");
    const metric = await run.registry.getSingleMetricAsString("meltemi_kube_objects");
    expect(metric).toContain('meltemi_kube_objects{kind="Pod"} 5');
    await eventually("the bookmark in the next watch", () => {
      double.disconnect();
      return Promise.resolve(
        double.requests.some(
          (one) => one.startsWith(`GET ${namespaces}?`) && one.includes("resourceVersion=106"),
        ),
      );
    });
  });

  it("takes a list whole when its pages expire before they are read", async () => {
    for (let index = 0; index < 600; index++) double.put(pods, pod(`p${index}`));
    const compacting = setInterval(() => double.compact(), 1);
    const run = start({ kinds: ["Pod"] });
    try {
      await run.has("Pod shop/p599");
    } finally {
      clearInterval(compacting);
    }
    expect(run.batches[0]?.events).toHaveLength(600);
  });

  it("does without kinds that are not installed, and takes them when they appear and when they go", async () => {
    double.put(pods, pod("p"));
    const run = start({ kinds: ["Pod", "AuthorizationPolicy"] });
    await run.has("Pod shop/p");
    double.serve(oldPolicies);
    double.put(oldPolicies, policy("deny", "DENY"));
    await run.has("AuthorizationPolicy shop/deny");
    double.serve(policies);
    double.put(policies, policy("deny", "DENY"));
    double.uninstall(oldPolicies);
    await eventually("a watch of the newer version", () => Promise.resolve(double.watchers(policies) === 1));
    expect(run.inForce.has("AuthorizationPolicy shop/deny")).toBe(true);
    expect(run.events).not.toContain("remove AuthorizationPolicy shop/deny");
    double.uninstall(policies);
    await run.lacks("AuthorizationPolicy shop/deny");
  }, 30_000);

  it("does not take a server that is only starting for one without policies", async () => {
    double.serve(policies);
    double.put(policies, policy("deny", "DENY"));
    const run = start({ kinds: ["AuthorizationPolicy"] });
    await run.has("AuthorizationPolicy shop/deny");
    double.ready = false;
    double.uninstall(policies);
    await eventually("the server is asked", () =>
      Promise.resolve(double.requests.filter((one) => one === "GET /readyz").length >= 2),
    );
    expect(run.inForce.has("AuthorizationPolicy shop/deny")).toBe(true);
    double.serve(policies);
    double.put(policies, policy("deny", "DENY"));
    double.ready = true;
    await eventually("a watch", () => Promise.resolve(double.watchers(policies) === 1));
    expect(run.events).toEqual(["apply AuthorizationPolicy shop/deny"]);
  }, 30_000);

  it("keeps the last good form of an object that is refused, and says why", async () => {
    double.serve(policies);
    double.put(policies, policy("deny", "DENY"));
    const run = start({ kinds: ["AuthorizationPolicy"] });
    await run.has("AuthorizationPolicy shop/deny");
    double.put(policies, policy("deny", "DENI"));
    await eventually("a problem", () => Promise.resolve(run.problems.length > 0));
    expect(run.problems).toEqual(["AuthorizationPolicy deny: is not a value of this field"]);
    expect(run.batches.at(-1)?.problems[0]?.location).toBe("Kubernetes");
    expect(run.events).toEqual(["apply AuthorizationPolicy shop/deny"]);
    double.delete(policies, "shop", "deny");
    await run.lacks("AuthorizationPolicy shop/deny");
    expect(run.problems).toEqual([]);
  });

  it("asks for one node's pods only where it is told so", async () => {
    double.put(pods, pod("mine"));
    double.put(pods, pod("other", { node: "n2" }));
    const run = start({ kinds: ["Pod"], select: { Pod: { fieldSelector: "spec.nodeName=n1" } } });
    await run.has("Pod shop/mine");
    expect([...run.inForce]).toEqual(["Pod shop/mine"]);
  });

  it("says which right is missing", async () => {
    double.fail(pods, 403, 1);
    const run = start({ kinds: ["Pod"] });
    await eventually("the watch", () => Promise.resolve(double.watchers(pods) === 1));
    const [record] = run.log.records.filter(({ message }) => message === "kubernetes refuses");
    expect(record?.fields).toMatchObject({ kind: "Pod" });
  });

  it("believes no network namespace that a pod names for itself", async () => {
    double.put(pods, pod("p", { metadata: { annotations: { "meltemi.io/netns": "/run/netns/another" } } }));
    const run = start({ kinds: ["Pod"] });
    await run.has("Pod shop/p");
    expect(run.batches[0]?.events[0]).toMatchObject({ object: { netns: undefined } });
  });

  it("drops what the mesh does not read of an object", async () => {
    const annotations = {
      "kubectl.kubernetes.io/last-applied-configuration": "{}",
      "example.com/blob": "x".repeat(1_000),
      "meltemi.io/exclude-inbound-ports": "80",
    };
    double.put(pods, pod("p", { metadata: { annotations } }));
    const run = start({ kinds: ["Pod"] });
    await run.has("Pod shop/p");
    const [event] = run.batches[0]?.events ?? [];
    if (event?.type !== "apply") throw new Error("no apply");
    expect([...event.object.meta.annotations.keys()]).toEqual(["meltemi.io/exclude-inbound-ports"]);
  });
});
