/** Meltemi on a cluster, from its manifests: pods that run already come into the mesh by a label, and nobody else's rights are enough for more. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { renderObjects } from "../src/manifests/render.js";
import { readValues } from "../src/manifests/values.js";
import { eventually } from "../test/helpers/eventually.js";
import { Cluster } from "./cluster/cluster.js";
import { Layout } from "./cluster/layout.js";
import { buildPrograms } from "./cluster/programs.js";
import { meltemiImages } from "./images/images.js";

const layout = new Layout("/var/lib/meltemi-mesh-test");
const root = process.cwd();
const prefix = "docker.io/meltemi";
const testkit = `${prefix}/testkit:test`;
const port = 8080;
const directory = mkdtempSync(join(tmpdir(), "meltemi-e2e-"));
const system = "meltemi-system";
const controlPlane = `system:serviceaccount:${system}:meltemi-control-plane`;
const agent = `system:serviceaccount:${system}:meltemi-node`;

/** A deployment of one pod on one node, with an account of its own. */
const application = (name: string, node: string): readonly object[] => [
  { apiVersion: "v1", kind: "ServiceAccount", metadata: { name, namespace: "shop" } },
  {
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: { name, namespace: "shop" },
    spec: {
      selector: { matchLabels: { app: name } },
      template: {
        metadata: { labels: { app: name } },
        spec: {
          serviceAccountName: name,
          terminationGracePeriodSeconds: 1,
          nodeSelector: { "kubernetes.io/hostname": node },
          containers: [
            {
              name: "app",
              image: testkit,
              imagePullPolicy: "Never",
              args: ["serve", "http", "--listen", `0.0.0.0:${port}`, "--name", name],
              readinessProbe: { httpGet: { path: "/", port }, periodSeconds: 1 },
            },
          ],
        },
      },
    },
  },
  {
    apiVersion: "v1",
    kind: "Service",
    metadata: { name, namespace: "shop" },
    spec: { selector: { app: name }, ports: [{ name: "http", port: 80, targetPort: port }] },
  },
];

interface Pod {
  readonly name: string;
  readonly uid: string;
  readonly ip: string;
  readonly restarts: number;
}

interface AccessRecord {
  readonly message?: string;
  readonly direction?: string;
  readonly protocol?: string;
  readonly src_identity?: string;
  readonly dst_identity?: string;
}

let cluster: Cluster;
const since = performance.now();
const say = (text: string): void =>
  console.log(`[${((performance.now() - since) / 1000).toFixed(1)} s] ${text}`);

const kubectl = (...args: string[]): Promise<string> => cluster.kubectl(args);
const apply = (objects: readonly object[]): Promise<string> =>
  cluster.kubectl(["apply", "-f", "-"], JSON.stringify({ apiVersion: "v1", kind: "List", items: objects }));
const refused = (task: Promise<string>): Promise<string> =>
  task.then(
    (output) => {
      throw new Error(`was not refused: ${output}`);
    },
    (error: unknown) => String(error),
  );

async function pods(namespace: string, ...selector: string[]): Promise<readonly Pod[]> {
  const { items } = JSON.parse(await kubectl("-n", namespace, "get", "pods", ...selector, "-o", "json")) as {
    items: {
      metadata: { name: string; uid: string };
      status: { podIP: string; containerStatuses: { restartCount: number }[] };
    }[];
  };
  return items.map(({ metadata, status }) => ({
    name: metadata.name,
    uid: metadata.uid,
    ip: status.podIP,
    restarts: status.containerStatuses.reduce((sum, { restartCount }) => sum + restartCount, 0),
  }));
}

const podOf = async (name: string): Promise<Pod> => (await pods("shop", "-l", `app=${name}`))[0]!;
const agentOn = async (node: string): Promise<Pod> =>
  (
    await pods(
      system,
      ...["-l", "app.kubernetes.io/component=node", "--field-selector", `spec.nodeName=${node}`],
    )
  )[0]!;

interface Outcome {
  readonly requests: number;
  readonly ok: number;
  /** The client's own addresses: one for each connection. */
  readonly connections: number;
}

/** From one pod to another's service; every request over a connection of its own, unless told otherwise. */
async function request(
  from: string,
  to: string,
  requests: number,
  how: readonly string[] = ["--keepalive", "false"],
): Promise<Outcome> {
  const ip = await kubectl("-n", "shop", "get", "service", to, "-o", "jsonpath={.spec.clusterIP}");
  const pod = await podOf(from);
  const output = await kubectl(
    ...["-n", "shop", "exec", pod.name, "--", "/meltemi-testkit", "client", "http"],
    ...["--url", `http://${ip}/`, "--lines", "--requests", String(requests), ...how],
  );
  const lines = output.trim().split("\n");
  const locals = lines.slice(0, -1).map((line) => (JSON.parse(line) as { readonly local?: string }).local);
  const { requests: tried, ok } = JSON.parse(lines.at(-1) ?? "{}") as Omit<Outcome, "connections">;
  return { requests: tried, ok, connections: new Set(locals).size };
}

async function records(node: string): Promise<readonly AccessRecord[]> {
  const log = await kubectl("-n", system, "logs", (await agentOn(node)).name, "-c", "data-plane");
  return log
    .split("\n")
    .filter((line) => line.includes('"scope":"access"'))
    .map((line) => JSON.parse(line) as AccessRecord);
}

/** The agent's own word on a pod, by its page on the node. */
async function stateOf(node: string, name: string): Promise<string | undefined> {
  const output = await kubectl(
    ...["-n", system, "exec", (await agentOn(node)).name, "-c", "agent", "--"],
    ...["/usr/bin/node", "/meltemi/bin/meltemi", "status", "-o", "json"],
  );
  return output.includes(name) ? output : undefined;
}

/** Both replicas, or both nodes'; what they say where they are not. */
async function allReady(what: string, path: string): Promise<void> {
  try {
    await eventually(
      `${what} to be ready`,
      async () => (await kubectl("-n", system, "get", what, "-o", `jsonpath=${path}`)) === "2",
      120_000,
    );
  } catch (error) {
    const told: string[] = [await kubectl("-n", system, "get", "pods", "-o", "wide")];
    for (const { name } of await pods(system))
      told.push(await kubectl("-n", system, "logs", name, "--all-containers", "--prefix", "--tail=15"));
    throw new Error([String(error), ...told].join("\n"), { cause: error });
  }
}

beforeAll(async () => {
  await Cluster.down(layout);
  const programs = await buildPrograms(join(root, "e2e/cluster/go"), say);
  cluster = await Cluster.up(layout, { nodes: 2, programs, apiServerFlags: [] }, say);
  await cluster.loadImage({
    name: testkit,
    entrypoint: ["/meltemi-testkit"],
    files: [{ from: join(root, "target/release/meltemi-testkit"), to: "/meltemi-testkit", libraries: true }],
  });
  for (const image of meltemiImages(root, prefix, "dev")) await cluster.loadImage(image);
  say("images are loaded");
  // Before Meltemi: nobody tells it of these.
  await apply([
    { apiVersion: "v1", kind: "Namespace", metadata: { name: "shop" } },
    ...application("cart", "n1"),
    ...application("pay", "n2"),
  ]);
  for (const name of ["cart", "pay"])
    await kubectl("-n", "shop", "rollout", "status", `deployment/${name}`, "--timeout=90s");
  await apply(renderObjects(readValues([`imagePrefix=${prefix}`])));
  await allReady("deployment/meltemi-control-plane", "{.status.readyReplicas}");
  await allReady("daemonset/meltemi-node", "{.status.numberReady}");
  say("Meltemi runs");
});

afterAll(async () => {
  rmSync(directory, { recursive: true, force: true });
  await Cluster.down(layout);
});

describe("Meltemi on a cluster of two nodes", () => {
  it("takes pods that ran before it into the mesh by a label: new connections are mutual TLS, open ones go on, none restarted", async () => {
    const before = await pods("shop");
    expect((await request("cart", "pay", 5)).ok).toBe(5);
    expect(await records("n2")).toEqual([]);

    const established = request("cart", "pay", 80, ["--keepalive", "true", "--interval-ms", "100"]);
    const labelled = performance.now();
    await kubectl("label", "namespace", "shop", "istio.io/dataplane-mode=ambient");
    await eventually(
      "a connection between the nodes by mutual TLS",
      async () => {
        expect((await request("cart", "pay", 1)).ok).toBe(1);
        return (await records("n2")).some(
          (one) => one.direction === "inbound" && one.src_identity !== undefined,
        );
      },
      60_000,
    );
    say(`in the mesh after ${((performance.now() - labelled) / 1000).toFixed(1)} s`);

    const outcome = await request("cart", "pay", 20);
    expect(outcome).toMatchObject({ requests: 20, ok: 20 });
    const arrived = (await records("n2")).filter(
      (one) => one.direction === "inbound" && one.src_identity !== undefined,
    );
    expect(arrived.length).toBeGreaterThanOrEqual(20);
    for (const one of arrived) {
      expect(one).toMatchObject({
        protocol: "hbone",
        src_identity: "spiffe://cluster.local/ns/shop/sa/cart",
        dst_identity: "spiffe://cluster.local/ns/shop/sa/pay",
      });
    }
    // A connection that was open before goes on as it is.
    expect(await established).toEqual({ requests: 80, ok: 80, connections: 1 });
    expect(await pods("shop")).toEqual(before);
  });

  it("captures a pod that starts later before its first connection", async () => {
    await kubectl("-n", "shop", "rollout", "restart", "deployment/cart");
    await kubectl("-n", "shop", "rollout", "status", "deployment/cart", "--timeout=60s");
    const { ip, name } = await eventually(
      "one pod",
      async () => {
        const found = await pods("shop", "-l", "app=cart");
        return found.length === 1 && found[0];
      },
      30_000,
    );
    expect(await stateOf("n1", name)).toBeDefined();
    expect((await request("cart", "pay", 3)).ok).toBe(3);
    const from = (await records("n2")).filter((one) => JSON.stringify(one).includes(`"${ip}:`));
    expect(from.filter((one) => one.direction === "inbound").map((one) => one.protocol)).toEqual([
      "hbone",
      "hbone",
      "hbone",
    ]);
  });

  it("publishes the roots in every namespace, new ones too, and puts back what was changed", async () => {
    const rootOf = (namespace: string, name: string): Promise<string> =>
      kubectl("-n", namespace, "get", "configmap", name, "-o", "jsonpath={.data.root-cert\\.pem}");
    const ours = await rootOf(system, "meltemi-ca-root-cert");
    expect(ours).toContain("BEGIN CERTIFICATE");
    await kubectl("create", "namespace", "later");
    for (const name of ["meltemi-ca-root-cert", "istio-ca-root-cert"]) {
      await eventually(
        `${name} in a new namespace`,
        async () => {
          const text = await rootOf("later", name).catch(() => "");
          return text === ours;
        },
        20_000,
      );
    }
    await kubectl("-n", "later", "delete", "configmap", "meltemi-ca-root-cert");
    await eventually(
      "the root again",
      async () => {
        const text = await rootOf("later", "meltemi-ca-root-cert").catch(() => "");
        return text === ours;
      },
      20_000,
    );
  });

  it("gives a stolen agent's token no identity of another node's pods", async () => {
    const { name, uid } = await agentOn("n1");
    const token = (...args: string[]): Promise<string> =>
      kubectl("-n", system, "create", "token", "meltemi-node", "--duration=10m", ...args);
    const bound = ["--bound-object-kind=Pod", `--bound-object-name=${name}`, `--bound-object-uid=${uid}`];
    const roots = join(directory, "roots.pem");
    writeFileSync(
      roots,
      await kubectl(
        "-n",
        system,
        "get",
        "configmap",
        "meltemi-ca-root-cert",
        "-o",
        "jsonpath={.data.root-cert\\.pem}",
      ),
    );
    const address = (await pods(system, "-l", "app.kubernetes.io/component=control-plane"))[0]!.ip;
    const [cart, pay] = ["cart", "pay"].map((one) => `spiffe://cluster.local/ns/shop/sa/${one}`);
    const ask = async (text: string): Promise<string> => {
      const file = join(directory, "token");
      writeFileSync(file, text);
      return cluster.machine.run([
        ...[process.execPath, join(root, "dist/e2e/tools/ask-certificate.js"), `${address}:15012`],
        ...[`meltemi.${system}.svc`, roots, file, cart!, pay!],
      ]);
    };
    const outcomes = (text: string): readonly string[] =>
      text
        .trim()
        .split("\n")
        .map((line) => line.split(" ")[1] ?? "");
    expect(outcomes(await ask(await token("--audience=istio-ca", ...bound)))).toEqual([
      "issued",
      "PERMISSION_DENIED",
    ]);
    // Made for somebody else; bound to no pod; another's.
    expect(outcomes(await ask(await token(...bound)))).toEqual(["UNAUTHENTICATED", "UNAUTHENTICATED"]);
    expect(outcomes(await ask(await token("--audience=istio-ca")))).toEqual([
      "UNAUTHENTICATED",
      "UNAUTHENTICATED",
    ]);
    const application = await kubectl("-n", "shop", "create", "token", "cart", "--audience=istio-ca");
    expect(outcomes(await ask(application))).toEqual(["UNAUTHENTICATED", "UNAUTHENTICATED"]);
  });

  it("takes the startup taint off a node whose agent is ready, and may change nothing else of it", async () => {
    await kubectl("taint", "node", "n1", "meltemi.io/agent-not-ready=:NoSchedule");
    await eventually(
      "the taint gone",
      async () =>
        !(await kubectl("get", "node", "n1", "-o", "jsonpath={.spec.taints}")).includes("meltemi.io"),
      20_000,
    );
    const patch = (body: object, as: string): Promise<string> =>
      refused(kubectl("patch", "node", "n1", "--as", as, "--type=merge", "-p", JSON.stringify(body)));
    const taints = (key: string) => ({ spec: { taints: [{ key, effect: "NoSchedule" }] } });
    expect(await patch({ metadata: { labels: { a: "b" } } }, controlPlane)).toMatch(/but its own taint/);
    expect(await patch({ spec: { unschedulable: true } }, controlPlane)).toMatch(/but its own taint/);
    expect(await patch(taints("other"), controlPlane)).toMatch(/and no other/);
    expect(await patch(taints("meltemi.io/agent-not-ready"), controlPlane)).toMatch(/and not set it/);
  });

  it.each([
    ["an agent reads Secrets", agent, ["get", "secrets", "-n", system]],
    ["an agent reads ConfigMaps", agent, ["list", "configmaps", "-A"]],
    ["an agent writes nodes", agent, ["patch", "nodes"]],
    ["an agent writes pods", agent, ["patch", "pods", "-A"]],
    ["the control plane reads all Secrets", controlPlane, ["list", "secrets", "-A"]],
    [
      "the control plane reads other Secrets of its namespace",
      controlPlane,
      ["get", "secrets/other", "-n", system],
    ],
    ["the control plane writes other ConfigMaps", controlPlane, ["patch", "configmaps/other", "-n", "shop"]],
    ["the control plane writes pods", controlPlane, ["create", "pods", "-n", "shop"]],
  ])("does not let it be that %s", async (_what, account, question) => {
    expect(await refused(kubectl("auth", "can-i", "--as", account, ...question))).toMatch(/no/);
  });

  it("has found nothing to repair", async () => {
    for (const node of ["n1", "n2"]) {
      const log = await kubectl("-n", system, "logs", (await agentOn(node)).name, "-c", "agent");
      expect(log).toContain("pod enrolled");
      expect(log).not.toContain("capture repaired");
    }
  });

  it("lets the pods out again when the label goes", async () => {
    await kubectl("label", "namespace", "shop", "istio.io/dataplane-mode-");
    await eventually(
      "a connection past the mesh",
      async () => {
        const before = (await records("n2")).length;
        expect((await request("cart", "pay", 1)).ok).toBe(1);
        return (await records("n2")).length === before;
      },
      60_000,
    );
  });
});
