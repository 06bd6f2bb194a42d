/** The cluster itself, before anything of ours is installed on it: what later suites stand on. */
import { execa } from "execa";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { eventually } from "../test/helpers/eventually.js";
import { Cluster } from "./cluster/cluster.js";
import { writeImage } from "./cluster/image.js";
import { Layout, network } from "./cluster/layout.js";
import { Machine } from "./cluster/machine.js";
import { buildPrograms } from "./cluster/programs.js";
import { belonging, stillHeld, traces, type Traces } from "./cluster/traces.js";

const layout = new Layout("/var/lib/meltemi-cluster-test");
const root = process.cwd();
const image = "docker.io/meltemi/testkit:test";
const port = 8080;

const web = [
  {
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: { name: "web" },
    spec: {
      replicas: 4,
      selector: { matchLabels: { app: "web" } },
      template: {
        metadata: { labels: { app: "web" } },
        spec: {
          terminationGracePeriodSeconds: 1,
          topologySpreadConstraints: [
            {
              maxSkew: 1,
              topologyKey: "kubernetes.io/hostname",
              whenUnsatisfiable: "DoNotSchedule",
              labelSelector: { matchLabels: { app: "web" } },
            },
          ],
          containers: [
            {
              name: "web",
              image,
              imagePullPolicy: "Never",
              env: [{ name: "NODE", valueFrom: { fieldRef: { fieldPath: "spec.nodeName" } } }],
              args: ["serve", "http", "--listen", `0.0.0.0:${port}`, "--name", "$(NODE)"],
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
    metadata: { name: "web" },
    spec: { selector: { app: "web" }, ports: [{ port: 80, targetPort: port }] },
  },
  {
    apiVersion: "v1",
    kind: "Service",
    metadata: { name: "web-outside" },
    spec: {
      type: "LoadBalancer",
      externalTrafficPolicy: "Local",
      selector: { app: "web" },
      ports: [{ port: 80, targetPort: port }],
    },
  },
];

interface Pod {
  readonly name: string;
  readonly node: string;
  readonly ip: string;
}

/** What one attempt of the test kit's client tells (`--lines`). */
interface Attempt {
  readonly status?: number;
  readonly server?: string;
  readonly client?: string;
}

let cluster: Cluster;
let before: Traces;
const since = performance.now();
const say = (text: string): void =>
  console.log(`[${((performance.now() - since) / 1000).toFixed(1)} s] ${text}`);

const kubectl = (...args: string[]): Promise<string> => cluster.kubectl(args);
const apply = (objects: readonly object[]): Promise<string> =>
  cluster.kubectl(["apply", "-f", "-"], JSON.stringify({ apiVersion: "v1", kind: "List", items: objects }));

async function pods(label: string): Promise<readonly Pod[]> {
  const { items } = JSON.parse(await kubectl("get", "pods", "-l", label, "-o", "json")) as {
    items: { metadata: { name: string }; spec: { nodeName: string }; status: { podIP: string } }[];
  };
  return items.map((one) => ({ name: one.metadata.name, node: one.spec.nodeName, ip: one.status.podIP }));
}

const request = (url: string, requests: number): readonly string[] => [
  ...["client", "http", "--url", url, "--lines", "--keepalive", "false", "--requests", `${requests}`],
];
const attempts = (output: string): readonly Attempt[] =>
  output
    .split("\n")
    .map((line) => JSON.parse(line) as Attempt)
    .filter((one) => one.status !== undefined);

/** The error of a command that has to be refused. */
const refused = (task: Promise<string>): Promise<string> =>
  task.then(
    (output) => {
      throw new Error(`was not refused: ${output}`);
    },
    (error: unknown) => String(error),
  );

async function expectNothingLeft(): Promise<void> {
  expect(await traces(layout)).toEqual(before);
}

beforeAll(async () => {
  await Cluster.down(layout);
  before = await traces(layout);
  const programs = await buildPrograms(join(root, "e2e/cluster/go"), say);
  cluster = await Cluster.up(layout, { nodes: 2, programs, apiServerFlags: [] }, say);
  await cluster.loadImage({
    name: image,
    entrypoint: ["/meltemi-testkit"],
    files: [
      { from: join(root, "target/release/meltemi-testkit"), to: "/meltemi-testkit", libraries: true },
      { from: "/usr/bin/getent", to: "/usr/bin/getent", libraries: true },
    ],
  });
  await apply(web);
  await kubectl("rollout", "status", "deployment/web", "--timeout=90s");
  say("the Deployment is there");
});

afterAll(async () => {
  await Cluster.down(layout);
});

describe("a cluster of two nodes", () => {
  it("has both nodes Ready, at the version it was built from, and pods on both", async () => {
    const { items } = JSON.parse(await kubectl("get", "nodes", "-o", "json")) as {
      items: { metadata: { name: string }; status: { nodeInfo: { kubeletVersion: string } } }[];
    };
    expect(items.map((one) => [one.metadata.name, one.status.nodeInfo.kubeletVersion])).toEqual([
      ["n1", "v1.36.3"],
      ["n2", "v1.36.3"],
    ]);
    const nodes = (await pods("app=web")).map((pod) => pod.node).sort();
    expect(nodes).toEqual(["n1", "n1", "n2", "n2"]);
  });

  it("has the images that were loaded on both nodes, from an archive too", async () => {
    const scratch = mkdtempSync(join(tmpdir(), "meltemi-cluster-"));
    const archive = join(scratch, "other.tar");
    const other = "docker.io/meltemi/other:1";
    try {
      await writeImage({ name: other, entrypoint: ["/a"], files: [], contents: { "/a": "b" } }, archive);
      await cluster.loadImage({ archive });
    } finally {
      rmSync(scratch, { recursive: true });
    }
    for (const node of cluster.nodes) {
      const names = (await node.run(["ctr", "-n", "k8s.io", "images", "ls", "-q"])).split("\n");
      expect(names).toEqual(expect.arrayContaining([image, other]));
    }
  });

  it("carries a service's connections from a pod to pods of both nodes, with the pod's own address", async () => {
    const [from] = await pods("app=web");
    const ip = await kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}");
    const ask = () => kubectl("exec", from!.name, "--", "/meltemi-testkit", ...request(`http://${ip}/`, 40));
    const servers = (all: readonly Attempt[]) => new Set(all.map((one) => one.server));
    // kube-proxy hears of the endpoints in its own time; once it has, no request may fail.
    await eventually(
      "the service to lead to both nodes",
      () =>
        ask().then(
          (output) => servers(attempts(output)).size === 2,
          () => false,
        ),
      30_000,
    );
    const seen = attempts(await ask());
    expect(seen.map((one) => one.status)).toEqual(Array(40).fill(200));
    expect(servers(seen)).toEqual(new Set(["n1", "n2"]));
    const elsewhere = seen.filter((one) => one.server !== from!.node).map((one) => one.client?.split(":")[0]);
    expect(new Set(elsewhere)).toEqual(new Set([from!.ip]));
  });

  it("resolves a service's name in pods of both nodes, and says no to one that is not there", async () => {
    const ip = await kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}");
    for (const node of ["n1", "n2"]) {
      const pod = (await pods("app=web")).find((one) => one.node === node)!;
      const resolve = (name: string) => kubectl("exec", pod.name, "--", "/usr/bin/getent", "ahostsv4", name);
      expect((await resolve("web.default.svc.cluster.local")).split(/\s+/)[0]).toBe(ip);
      expect((await resolve("web")).split(/\s+/)[0]).toBe(ip);
      expect(await refused(resolve("no-such.default.svc.cluster.local"))).toMatch(/exit code 2/);
    }
  });

  it("gives logs, and runs commands in a pod", async () => {
    const [pod] = await pods("app=web");
    expect(await kubectl("logs", pod!.name)).toContain('"ready":true');
    const loader = "/lib64/ld-linux-x86-64.so.2";
    expect(await kubectl("exec", pod!.name, "--", loader, "--version")).toContain("ld.so");
  });

  it("reaches a LoadBalancer's address from outside, on both nodes, and keeps the client's address", async () => {
    const address = await eventually(
      "an address",
      async () => {
        const ip = await kubectl(
          "get",
          "service",
          "web-outside",
          "-o",
          "jsonpath={.status.loadBalancer.ingress[0].ip}",
        );
        return ip === "" ? undefined : ip;
      },
      20_000,
    );
    expect(address.startsWith("10.79.64.")).toBe(true);
    const client = join(root, "target/release/meltemi-testkit");
    const get = (count: number) => cluster.machine.run([client, ...request(`http://${address}/`, count)]);
    const seen = attempts(await get(40));
    expect(seen.map((one) => one.status)).toEqual(Array(40).fill(200));
    expect(new Set(seen.map((one) => one.server))).toEqual(new Set(["n1", "n2"]));
    expect(new Set(seen.map((one) => one.client?.split(":")[0]))).toEqual(new Set([network.lan.address]));

    await kubectl("delete", "service", "web-outside");
    await eventually(
      "its route to go",
      async () => !(await cluster.machine.run(["ip", "route"])).includes(address),
      20_000,
    );
  });

  it("refuses a kubelet what is another node's (NodeRestriction and the node authorizer)", async () => {
    const certificate = join(layout.pki, "kubelet-n1");
    /** The API's answer to n1's kubelet: the status code, and the message of an error. */
    const ask = async (method: string, path: string, body?: object): Promise<string> => {
      const type = method === "PATCH" ? "application/merge-patch+json" : "application/json";
      const output = await cluster.machine.run([
        ...["curl", "-s", "--cacert", join(layout.pki, "ca.crt")],
        ...["--cert", `${certificate}.crt`, "--key", `${certificate}.key`, "-w", "\n%{http_code}"],
        ...["-X", method, "-H", `content-type: ${type}`],
        ...(body === undefined ? [] : ["--data", JSON.stringify(body)]),
        `https://${network.lan.address}:${network.apiPort}/api/v1/${path}`,
      ]);
      const lines = output.split("\n");
      const { message } = JSON.parse(lines.slice(0, -1).join("\n")) as { message?: string };
      return `${lines.at(-1) ?? ""} ${message ?? ""}`.trim();
    };
    const annotate = { metadata: { annotations: { "meltemi.test/by": "n1" } } };
    const uid = (pod: Pod) => kubectl("get", "pod", pod.name, "-o", "jsonpath={.metadata.uid}");
    const token = async (pod: Pod): Promise<object> => ({
      apiVersion: "authentication.k8s.io/v1",
      kind: "TokenRequest",
      spec: { boundObjectRef: { apiVersion: "v1", kind: "Pod", name: pod.name, uid: await uid(pod) } },
    });
    const all = await pods("app=web");
    const [own, theirs] = ["n1", "n2"].map((node) => all.find((one) => one.node === node)!);
    await kubectl("create", "secret", "generic", "not-theirs", "--from-literal=a=b");
    const inDefault = "namespaces/default";

    // What it may: so that what follows is refused for the right reason.
    expect(await ask("PATCH", "nodes/n1/status", annotate)).toBe("200");
    expect(await ask("GET", `${inDefault}/pods/${own!.name}`)).toBe("200");
    expect(await ask("POST", `${inDefault}/serviceaccounts/default/token`, await token(own!))).toBe("201");

    expect(await ask("GET", "nodes/n2")).toMatch(
      /^403 .*node 'n1' cannot read 'n2', only its own Node object/,
    );
    expect(await ask("PATCH", "nodes/n2/status", annotate)).toMatch(
      /^403 .*node "n1" is not allowed to modify node "n2"/,
    );
    const label = { metadata: { labels: { "node-restriction.kubernetes.io/a": "b" } } };
    expect(await ask("PATCH", "nodes/n1", label)).toMatch(
      /^403 .*is not allowed to modify labels: node-restriction/,
    );
    expect(await ask("DELETE", `${inDefault}/pods/${theirs!.name}`)).toMatch(
      /^403 .*node "n1" can only delete pods with spec\.nodeName set to itself/,
    );
    expect(await ask("POST", `${inDefault}/serviceaccounts/default/token`, await token(theirs!))).toMatch(
      /^403 .*(no relationship|different node|not scheduled|bound)/,
    );
    expect(await ask("GET", `${inDefault}/secrets/not-theirs`)).toMatch(
      /^403 .*no relationship found between node 'n1' and this object/,
    );
    expect(await ask("GET", "secrets")).toMatch(/^403 .*can only read namespaced object of this type/);

    expect(await kubectl("get", "node", "n1", "-o", "jsonpath={.metadata.annotations}")).toContain(
      "meltemi.test",
    );
    expect(await kubectl("get", "node", "n2", "-o", "jsonpath={.metadata.annotations}")).not.toContain(
      "meltemi.test",
    );
    expect(await uid(theirs!)).not.toBe("");
  });

  it("asks who wants something of a kubelet", async () => {
    const curl = (...args: string[]) =>
      cluster.machine.run([
        "sh",
        "-c",
        'exec curl -sk -o /dev/null -w "%{http_code}" "$@"',
        "curl",
        ...args,
        "https://10.79.0.12:10250/pods",
      ]);
    expect(await curl()).toBe("401");
    const own = (name: string) => [
      "--cert",
      join(layout.pki, `${name}.crt`),
      "--key",
      join(layout.pki, `${name}.key`),
    ];
    expect(await curl(...own("scheduler"))).toBe("403");
    expect(await curl(...own("admin"))).toBe("200");
  });

  it("sees a node die, and has it back with its pods after a reboot, its disk kept or lost", async () => {
    const node = cluster.node("n2");
    const ready = () =>
      kubectl("get", "node", "n2", "-o", "jsonpath={.status.conditions[?(@.type=='Ready')].status}");
    const held = belonging(node.pid!);
    expect(held.pids.length).toBeGreaterThan(5);
    await node.kill();
    expect(stillHeld(held)).toEqual([]);
    await eventually("n2 not to be Ready", async () => (await ready()) !== "True", 60_000);
    say("n2 is seen to be dead");

    for (const loseState of [false, true]) {
      if (loseState) await cluster.rebootNode("n2", true);
      else await cluster.startNode("n2");
      say(`n2 is Ready again, its disk ${loseState ? "lost" : "kept"}`);
      expect(await ready()).toBe("True");
      await eventually(
        "its pods to answer",
        async () => {
          const there = (await pods("app=web")).filter((pod) => pod.node === "n2");
          if (there.length !== 2) return false;
          const from = (await pods("app=web")).find((pod) => pod.node === "n1")!;
          const answers = await Promise.all(
            there.map((pod) =>
              kubectl(
                "exec",
                from.name,
                "--",
                "/meltemi-testkit",
                ...request(`http://${pod.ip}:${port}/`, 1),
              ).then(
                (output) => attempts(output)[0]?.server,
                () => undefined,
              ),
            ),
          );
          return answers.every((server) => server === "n2");
        },
        60_000,
      );
    }
    say("and its pods answer");

    await node.stop();
    expect(node.pid).toBeUndefined();
    await cluster.startNode("n2");
    expect(await ready()).toBe("True");
    say("n2 was stopped and is Ready again");
  });

  it("has no program that ended by itself", () => {
    expect([...cluster.restarts()].filter(([, times]) => times > 0)).toEqual([]);
  });
});

describe("taking it down", () => {
  it("leaves nothing, once and again", async () => {
    const held = belonging(cluster.machine.pid);
    expect(held.namespaces.length).toBeGreaterThan(10);
    expect(await traces(layout)).not.toEqual(before);
    await Cluster.down(layout);
    expect(stillHeld(held)).toEqual([]);
    await expectNothingLeft();
    await Cluster.down(layout);
    await expectNothingLeft();
  });

  it.each([
    ["before its API server serves", "logs/kube-apiserver.log"],
    ["while a node starts", "nodes/n1/root/var/log/containerd.log"],
  ])("leaves nothing of an `up` that was killed %s", async (_, file) => {
    const main = join(root, "dist/e2e/cluster/main.js");
    const up = execa(process.execPath, [main, "--state", layout.directory, "up", "--nodes", "1"], {
      reject: false,
      all: true,
    });
    await eventually(`${file} to be written`, () => existsSync(join(layout.directory, file)), 120_000);
    up.kill("SIGKILL");
    const ended = await up;
    expect(ended.signal, ended.all).toBe("SIGKILL");
    const { pid } = Machine.find(layout)!;
    const held = belonging(pid);
    const down = await execa(process.execPath, [main, "--state", layout.directory, "down"]);
    expect(down.stderr).toContain("the cluster is down");
    expect(stillHeld(held)).toEqual([]);
    await expectNothingLeft();
  });

  it("says what to do where there is none", async () => {
    const main = join(root, "dist/e2e/cluster/main.js");
    const result = await execa(process.execPath, [main, "--state", layout.directory, "status"], {
      reject: false,
    });
    expect(result.exitCode).toBe(1);
    expect(result.stderr).toContain(`no cluster runs in ${layout.directory}`);
    expect(readFileSync("/proc/self/mountinfo", "utf8")).not.toContain(layout.directory);
  });
});
