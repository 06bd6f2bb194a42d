/** A control plane as a process of its own, seen through the CLI as a person uses it. */
import { readFileSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";
import { afterAll, beforeAll, expect, test } from "vitest";
import { ControlPlaneProcess } from "../../helpers/control-plane-process.js";
import { eventually } from "../../helpers/eventually.js";

const plane = new ControlPlaneProcess();
const { directory, config, state, run } = plane;
const cli: ControlPlaneProcess["cli"] = (...args) => plane.cli(...args);
const json = <T>(...args: readonly string[]): Promise<T> => plane.json<T>(...args);

const shop = `
apiVersion: v1
kind: Namespace
metadata: { name: shop, labels: { istio.io/dataplane-mode: ambient } }
---
apiVersion: v1
kind: Pod
metadata: { name: cart-1, namespace: shop, labels: { app: cart }, annotations: { meltemi.io/netns: cart-1 } }
spec: { nodeName: n1, serviceAccountName: cart, containers: [{ name: c, image: x }] }
status: { podIP: 10.9.0.2, phase: Running }
---
apiVersion: v1
kind: ServiceAccount
metadata: { name: front, namespace: shop }
---
apiVersion: v1
kind: Service
metadata: { name: cart, namespace: shop }
spec: { clusterIP: 10.8.0.1, selector: { app: cart }, ports: [{ port: 80, targetPort: 8080 }] }
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: callers, namespace: shop }
spec: { selector: { matchLabels: { app: cart } }, action: ALLOW, rules: [{ from: [{ source: { principals: ["cluster.local/ns/shop/sa/front"] } }] }] }
`;

beforeAll(async () => {
  plane.write("shop.yaml", shop);
  await plane.start();
}, 60_000);
afterAll(() => plane.remove());

test("workloads, services and policies as tables", async () => {
  expect((await cli("workloads")).stdout).toBe(
    "NAMESPACE   NAME     IP         NODE   SERVICE ACCOUNT   PROTOCOL   HEALTHY   SERVICES\n" +
      "shop        cart-1   10.9.0.2   n1     cart              HBONE      yes       cart\n",
  );
  expect((await cli("services")).stdout).toMatch(/^shop +cart +10\.8\.0\.1 +80:8080 +1\/1$/m);
  expect((await cli("policies", "-o", "wide")).stdout).toMatch(
    /^shop +callers +AuthorizationPolicy +ALLOW +selector +no +Accepted/m,
  );
  expect((await cli("workloads", "-n", "other")).stdout).toBe("No workloads found.\n");
});

test("the same as json and yaml", async () => {
  const [workload] = await json<{ identity: string; uid: string }[]>("workloads");
  expect(workload).toMatchObject({
    identity: "spiffe://cluster.local/ns/shop/sa/cart",
    uid: "Kubernetes//Pod/shop/cart-1",
  });
  expect(parse((await cli("services", "-o", "yaml")).stdout)).toMatchObject([{ name: "cart", endpoints: 1 }]);
});

test("a wrong file: status names file, object and field, and the last good stays", async () => {
  plane.write("shop.yaml", shop.replace("action: ALLOW", "action: MAYBE"));
  const status = await eventually("the problem", async () => {
    const answer = await cli("status");
    return answer.stderr.includes("shop.yaml") && answer;
  });
  expect(status.stderr).toMatch(/error: .*shop\.yaml.*AuthorizationPolicy shop\/callers.*spec\.action/);
  expect((await json<{ name: string }[]>("policies")).map(({ name }) => name)).toEqual(["callers"]);
  expect((await cli("policies")).stdout).toMatch(/callers .* LastGoodInForce/);
  plane.write("shop.yaml", shop);
  await eventually("no problem", async () => (await cli("status")).stderr === "");
});

test("a pod that leaves, leaves the list", async () => {
  plane.write(
    "extra.yaml",
    shop.split("---")[1]!.replaceAll("cart-1", "cart-2").replace("10.9.0.2", "10.9.0.3"),
  );
  await eventually("two workloads", async () => (await json<object[]>("workloads")).length === 2);
  rmSync(join(config, "extra.yaml"));
  await eventually("one workload", async () => (await json<object[]>("workloads")).length === 1);
});

test("log level: read, set, and refused with the levels there are", async () => {
  expect(await json("log-level")).toEqual([{ process: "control-plane", level: "info" }]);
  expect(await json("log-level", "debug")).toEqual([{ process: "control-plane", level: "debug" }]);
  expect((await cli("log-level", "loud")).stderr).toContain('"loud" is not a log level');
  await cli("log-level", "info");
});

test("ca: rotate the root from the command line; a second one meanwhile is refused; state survives a kill", async () => {
  interface Ca {
    readonly phase: string;
    readonly version: number;
    readonly roots: readonly { readonly serial: string }[];
  }
  const before = await json<Ca>("ca", "status");
  expect(before).toMatchObject({ phase: "stable" });
  expect((await cli("ca", "rotate", "nothing")).code).toBe(2);
  await json<Ca>("ca", "rotate", "root");
  const after = await eventually("the rotation to end", async () => {
    const now = await json<Ca>("ca", "status");
    return now.phase === "stable" && now.version > before.version && now;
  });
  expect(after.roots).toHaveLength(1);
  expect(after.roots[0]!.serial).not.toBe(before.roots[0]!.serial);
  expect((await cli("ca", "rotate", "root", "--advance")).stderr).toContain("no rotation is under way");

  const roots = readFileSync(join(run, "root-cert.pem"), "utf8");
  await plane.end("SIGKILL");
  expect((await cli("status")).code).toBe(1);
  await plane.start();
  expect(await json<Ca>("ca", "status")).toMatchObject({ version: after.version, roots: after.roots });
  expect(readFileSync(join(run, "root-cert.pem"), "utf8")).toBe(roots);
});

test("ca: an identity is refused and allowed again", async () => {
  const identity = "spiffe://cluster.local/ns/shop/sa/cart";
  expect(await json("ca", "refuse", identity)).toMatchObject({ refused_identities: [identity] });
  expect(await json("ca", "allow", identity)).toMatchObject({ refused_identities: [] });
  expect((await cli("ca", "refuse", "cart")).stderr).toContain("is not an identity of this mesh");
});

test("nothing runs: the error says so and how to start", async () => {
  const { code, stderr } = await cli("status", "--run-dir", join(directory, "nowhere"));
  expect(code).toBe(1);
  expect(stderr).toContain("no Meltemi runs in");
  expect(stderr).toContain("meltemi standalone --config DIR");
});

test("commands for nodes say that none answers, and the exit code of a wrong flag is 2", async () => {
  expect((await cli("certificates")).stdout).toBe("No certificates yet.\n");
  expect((await cli("connections")).stdout).toBe("No open connections.\n");
  expect((await cli("status", "-o", "xml")).code).toBe(2);
  const wrong = await cli("control-plane", "--config", config, "--certificate-ttl-s", "1000000");
  expect([wrong.code, wrong.stderr]).toEqual([
    2,
    expect.stringContaining('--certificate-ttl-s is "1000000"'),
  ]);
});

test("no key and no token is in a log or readable by others", () => {
  const token = readFileSync(join(state, "tokens/n1"), "utf8").trim();
  expect(plane.log).not.toContain(token);
  expect(plane.log).not.toContain("PRIVATE KEY");
  for (const path of [
    run,
    state,
    join(state, "ca"),
    join(state, "tokens/n1"),
    join(run, "control-admin.sock"),
  ]) {
    expect(statSync(path).mode & 0o077, path).toBe(0);
  }
});

test("a second control plane on the same port says what to do; SIGTERM ends the first in order", async () => {
  const { listen } = await json<{ control_plane: { listen: string[] } }>("status").then(
    ({ control_plane }) => control_plane,
  );
  const args = ["--config", config, "--state-dir", join(directory, "s2"), "--run-dir", join(directory, "r2")];
  const second = await cli("control-plane", ...args, "--listen", listen[0]!);
  expect([second.code, second.stderr]).toEqual([
    1,
    expect.stringContaining(`cannot listen on ${listen[0]!}`),
  ]);
  expect(await plane.end("SIGTERM")).toBe(0);
  expect(plane.log).toContain("control plane stopped");
});
