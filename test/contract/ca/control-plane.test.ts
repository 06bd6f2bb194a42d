/** A control plane as a process of its own, seen through the CLI as a person uses it. */
import { execFile, spawn, type ChildProcess } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parse } from "yaml";
import { afterAll, beforeAll, expect, test } from "vitest";
import { eventually } from "../../helpers/eventually.js";

const meltemi = fileURLToPath(new URL("../../../bin/meltemi", import.meta.url));
const directory = mkdtempSync(join(tmpdir(), "meltemi-cp-"));
const [config, state, run] = ["config", "state", "run"].map((name) => join(directory, name)) as [
  string,
  string,
  string,
];

interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

const cli = (...args: readonly string[]): Promise<Outcome> =>
  new Promise((resolve) => {
    execFile(
      process.execPath,
      [meltemi, ...args],
      { env: { ...process.env, MELTEMI_RUN_DIR: run } },
      (error, stdout, stderr) => resolve({ code: error ? Number(error.code) : 0, stdout, stderr }),
    );
  });

const json = async <T>(...args: readonly string[]): Promise<T> => {
  const { code, stdout, stderr } = await cli(...args, "-o", "json");
  expect(code, stderr).toBe(0);
  return JSON.parse(stdout) as T;
};

const shop = `
apiVersion: v1
kind: Namespace
metadata: { name: shop, labels: { istio.io/dataplane-mode: ambient } }
---
apiVersion: v1
kind: Pod
metadata: { name: cart-1, namespace: shop, labels: { app: cart } }
spec: { nodeName: n1, serviceAccountName: cart, containers: [{ name: c, image: x }] }
status: { podIP: 10.9.0.2, phase: Running }
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

let child: ChildProcess;
let log = "";

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

async function start(...extra: readonly string[]): Promise<void> {
  const port = await freePort();
  const args = [
    "control-plane",
    "--config",
    config,
    "--state-dir",
    state,
    "--run-dir",
    run,
    "--listen",
    `127.0.0.1:${port}`,
  ];
  child = spawn(process.execPath, [
    meltemi,
    ...args,
    "--rotation-settle-ms",
    "0",
    "--log-format",
    "json",
    ...extra,
  ]);
  for (const stream of [child.stdout, child.stderr])
    stream?.on("data", (chunk: Buffer) => (log += chunk.toString()));
  await eventually("the control plane to be ready", async () =>
    (await cli("status")).stdout.includes("\nyes "),
  );
}

const end = (signal: NodeJS.Signals): Promise<number | null> =>
  new Promise((resolve) => {
    if (child.exitCode !== null || child.signalCode !== null) resolve(child.exitCode);
    child.once("exit", resolve);
    child.kill(signal);
  });

beforeAll(async () => {
  mkdirSync(config);
  writeFileSync(join(config, "shop.yaml"), shop);
  await start();
}, 60_000);
afterAll(async () => {
  await end("SIGKILL");
  rmSync(directory, { recursive: true, force: true });
});

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
  writeFileSync(join(config, "shop.yaml"), shop.replace("action: ALLOW", "action: MAYBE"));
  const status = await eventually("the problem", async () => {
    const answer = await cli("status");
    return answer.stderr.includes("shop.yaml") && answer;
  });
  expect(status.stderr).toMatch(/error: .*shop\.yaml.*AuthorizationPolicy shop\/callers.*spec\.action/);
  expect((await json<{ name: string }[]>("policies")).map(({ name }) => name)).toEqual(["callers"]);
  expect((await cli("policies")).stdout).toMatch(/callers .* LastGoodInForce/);
  writeFileSync(join(config, "shop.yaml"), shop);
  await eventually("no problem", async () => (await cli("status")).stderr === "");
});

test("a pod that leaves, leaves the list", async () => {
  writeFileSync(
    join(config, "extra.yaml"),
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
  await end("SIGKILL");
  expect((await cli("status")).code).toBe(1);
  await start();
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
  expect(log).not.toContain(token);
  expect(log).not.toContain("PRIVATE KEY");
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
  expect(await end("SIGTERM")).toBe(0);
  expect(log).toContain("control plane stopped");
});
