/** Names, addresses and numbers that another pod gets: the identity of the one before it is never used from there. */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it, onTestFinished } from "vitest";
import { runIn } from "../../../demo/lab/command.js";
import { LongRunning } from "../../../demo/lab/long-running.js";
import { eventually } from "../../helpers/eventually.js";
import { cartUrl, Mesh, root, type Requests } from "../standalone/mesh.js";

const mesh = new Mesh("r", "/run/meltemi/recycled");

const testkit = join(root, "target/release/meltemi-testkit");

/** Only front may call cart, and only by mutual TLS. */
const policies = `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default, namespace: shop }
spec: { mtls: { mode: STRICT } }
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: front-only, namespace: shop }
spec:
  selector: { matchLabels: { app: cart } }
  action: ALLOW
  rules: [{ from: [{ source: { principals: [cluster.local/ns/shop/sa/front] } }] }]
`;

const frontFile = join(mesh.config, "front.yaml");
const thiefFile = join(mesh.config, "thief.yaml");
const thief = (netns?: string): string =>
  mesh
    .manifest("front", { serviceAccount: "thief", ...(netns === undefined ? {} : { netns }) })
    .replace("name: front", "name: thief");

beforeAll(async () => {
  await mesh.up();
  writeFileSync(join(mesh.config, "policies.yaml"), policies);
  mesh.start();
  await mesh.ready("n1", "n2");
  await mesh.works();
});
afterAll(() => mesh.down());

/** Requests from front's namespace, each over a connection of its own and given up soon, until `stop`. */
function attempt(): { stop(): Promise<Requests> } {
  const args = ["client", "http", "--url", cartUrl, "--until-signal", "--interval-ms", "5"];
  const short = ["--keepalive", "false", "--timeout-ms", "20"];
  const client = new LongRunning(mesh.topology.pod("front").netns, testkit, [...args, ...short]);
  return { stop: async () => (await client.stop()) as Requests };
}

/** Ends the pod's namespace and makes another one of the same name, address and place. */
async function replaceNamespace(): Promise<void> {
  // As a CNI plugin does: the old namespace lives on for as long as the node holds it open.
  const { node } = mesh.topology.pod("front");
  await runIn(node.netns, "ip", ["link", "delete", `p${node.subnet}x10`]);
  await mesh.topology.removePod("front");
  await mesh.topology.addPod("front", "n2", 10);
}

it("a namespace's name and a pod's address pass to another pod, its identity does not", async () => {
  for (let turn = 0; turn < 3; turn += 1) {
    rmSync(frontFile);
    await replaceNamespace();
    const attempts = attempt();
    writeFileSync(thiefFile, thief());
    await mesh.podReaches("thief", "enrolled");
    // The thief's own identity is refused, too: what it asks from now on is not for want of capture.
    expect((await mesh.request("front", cartUrl, "--timeout-ms", "500")).ok).toBe(0);
    const { ok, requests } = await attempts.stop();
    expect(requests).toBeGreaterThan(0);
    expect(ok, `turn ${turn}`).toBe(0);

    rmSync(thiefFile);
    await replaceNamespace();
    mesh.writePod("front");
    await mesh.podReaches("front", "enrolled");
    await mesh.works();
  }
});

/** A process of that very number in the pod's namespace. */
async function processOfNumber(pid: number): Promise<ChildProcess> {
  const netns = `--net=/run/netns/${mesh.topology.pod("front").netns}`;
  return eventually(`a process of number ${pid}`, async () => {
    writeFileSync("/proc/sys/kernel/ns_last_pid", String(pid - 1));
    const child = spawn("nsenter", [netns, "--", "sleep", "1000"], { stdio: "ignore" });
    if (child.pid === pid) return child;
    const ended = once(child, "exit");
    child.kill("SIGKILL");
    await ended;
    return undefined;
  });
}

it("a process's number and a pod's address pass to another process, the pod's identity does not", async () => {
  const netns = `--net=/run/netns/${mesh.topology.pod("front").netns}`;
  const first = spawn("nsenter", [netns, "--", "sleep", "1000"], { stdio: "ignore" });
  const pid = first.pid ?? 0;
  mesh.writePod("front", { netns: `/proc/${pid}/ns/net` });
  await eventually(
    "front to be served by its process's namespace",
    async () => {
      const status = await mesh.pod("front");
      return status?.state === "enrolled" && JSON.stringify(status).includes(`/proc/${pid}/`);
    },
    30_000,
  );
  await mesh.works();

  const ended = once(first, "exit");
  first.kill("SIGKILL");
  await ended;
  await replaceNamespace();
  const second = await processOfNumber(pid);
  onTestFinished(() => void second.kill("SIGKILL"));
  const attempts = attempt();
  await eventually(
    "the other process to be refused",
    async () => /another process than the pod's/.test((await mesh.pod("front"))?.reason ?? ""),
    30_000,
  );
  expect((await mesh.request("front", cartUrl, "--timeout-ms", "500")).ok).toBe(0);
  expect((await attempts.stop()).ok).toBe(0);

  // Named anew, it is itself again.
  mesh.writePod("front");
  await mesh.podReaches("front", "enrolled");
  await mesh.works();
});
