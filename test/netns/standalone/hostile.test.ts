/** What strangers and broken input do to a real mesh: refused, said, counted, and nothing else changes. */
import "reflect-metadata";
import {
  chmodSync,
  closeSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  writeFileSync,
} from "node:fs";
import { connect } from "node:net";
import { dirname, join } from "node:path";
import { credentials, Metadata, status as grpcCode, type ServiceError } from "@grpc/grpc-js";
import { execa } from "execa";
import { afterAll, beforeAll, expect, test } from "vitest";
import { run as runCommand, runIn } from "../../../demo/lab/command.js";
import { IstioCertificateServiceClient } from "../../../src/gen/istio/v1/auth/ca.js";
import { KeyRequest } from "../../../src/gen/meltemi/v1/keys.js";
import { loadNative } from "../../../src/platform/native.js";
import { unixTarget } from "../../../src/platform/unix-grpc.js";
import { callUnixHttp } from "../../../src/platform/unix-http-client.js";
import { makeRequest } from "../../helpers/csr.js";
import { eventually } from "../../helpers/eventually.js";
import { commandOf, Mesh, root } from "./mesh.js";

const mesh = new Mesh("h", "/run/meltemi/hostile-test");
const n1 = join(mesh.run, "nodes/n1");
const n2 = join(mesh.run, "nodes/n2");
const stateOfN1 = join(mesh.state, "nodes/n1");
const native = loadNative();
const withdraw = Buffer.from(KeyRequest.encode({ payload: { $case: "withdraw", value: {} } }).finish());
/** Without a second user (a rootless sandbox has only one) nobody can play the stranger. */
const hasStrangers = !/^\s*0\s+\d+\s+1\s*$/.test(readFileSync("/proc/self/uid_map", "utf8"));

beforeAll(async () => {
  await mesh.up();
  await runCommand("mkdir", ["-p", stateOfN1]);
  // A disk of its own, small enough to be filled.
  await runCommand("mount", ["-t", "tmpfs", "-o", "size=1m,mode=700", "small", stateOfN1]);
  mesh.start();
  await mesh.ready("n1", "n2");
  await mesh.works();
});

afterAll(async () => {
  await mesh.end("SIGTERM");
  await runCommand("umount", [stateOfN1]);
  await mesh.down();
});

async function metric(name: string, node = n1): Promise<number> {
  const { body } = await callUnixHttp({ socketPath: join(node, "node-admin.sock"), path: "/metrics" });
  const line = body
    .toString()
    .split("\n")
    .find((one) => one.startsWith(`${name} `));
  return Number(line?.split(" ")[1] ?? 0);
}

/** The agent's log since it began. */
const agentLog = (node = "n1"): string => readFileSync(join(mesh.state, `logs/node-${node}.log`), "utf8");

/** Nothing has changed: the same processes, everything enrolled, traffic. */
async function unharmed(before: ReadonlyMap<string, number>): Promise<void> {
  expect(await mesh.ready("n1", "n2")).toEqual(before);
  await mesh.works();
}

/** Connects as the user nobody, says something, and tells what came back until the end. */
async function asStranger(path: string, kind: "packet" | "stream"): Promise<string> {
  const addon = join(root, "native/dist/node-addon.node");
  const script =
    kind === "packet"
      ? `(async () => {
          const connection = await require(${JSON.stringify(addon)}).PacketConnection.connect(process.argv[1]);
          await connection.send(Buffer.from([8, 1]), []).catch(() => undefined);
          const packet = await connection.receive(1024).catch(() => null);
          console.log(packet === null ? "closed" : "answered " + packet.fds.length);
        })().catch((error) => console.log("failed " + error.message))`
      : `const socket = require("node:net").connect(process.argv[1], () => socket.write("GET /status HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n"));
         let said = 0;
         socket.on("data", (chunk) => (said += chunk.length));
         socket.on("error", (error) => { if (error.code !== "EPIPE" && error.code !== "ECONNRESET") console.log("failed " + error.message); });
         socket.on("close", () => console.log(said === 0 ? "closed" : "answered " + said));`;
  const user = ["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"];
  const { stdout } = await execa("setpriv", [...user, process.execPath, "-e", script, path], {
    timeout: 20_000,
  });
  return stdout.trim();
}

test.runIf(hasStrangers).each([
  ["zds", "packet"],
  ["keys", "packet"],
  ["xds", "stream"],
  ["node-admin", "stream"],
  ["node-control", "stream"],
  ["proxy-admin", "stream"],
  ["proxy-control", "stream"],
] as const)(
  "%s.sock: another user is shut out, also where file permissions let it in",
  async (socket, kind) => {
    const path = join(n1, `${socket}.sock`);
    const before = await mesh.ready("n1", "n2");
    const counted = `meltemi_peer_refused_total{socket="${socket}"}`;
    const count = await metric(counted);
    for (let place = n1; place !== "/run"; place = dirname(place)) chmodSync(place, 0o711);
    chmodSync(path, 0o666);
    try {
      expect(await asStranger(path, kind)).toBe("closed");
    } finally {
      chmodSync(path, 0o600);
      chmodSync(n1, 0o700);
    }
    await eventually("it to be counted", async () => (await metric(counted)) > count);
    await unharmed(before);
  },
);

test("garbage, truncated and silent clients on zds.sock and keys.sock", async () => {
  const before = await mesh.ready("n1", "n2");
  const silent = await native.PacketConnection.connect(join(n1, "zds.sock"));
  for (const data of [Buffer.from([0xff, 0xff]), Buffer.from([0x0a, 0x7f, 1]), Buffer.alloc(1 << 16, 8)]) {
    const connection = await native.PacketConnection.connect(join(n1, "zds.sock"));
    await connection.send(data, []);
    expect(await connection.receive(1024).catch(() => null)).toBeNull();
    connection.close();
  }
  await eventually(
    "it to be counted",
    async () => (await metric('meltemi_peer_malformed_total{socket="zds"}')) >= 3,
  );
  expect(agentLog()).toMatch(/"error":"[^"]*hello[^"]*","message":"data plane disconnected"/);
  await unharmed(before);
  silent.close();
});

test("keys are handed to the supervised data plane only, and are sealed", async () => {
  const before = await mesh.ready("n1", "n2");
  const counted = 'meltemi_peer_refused_total{socket="keys"}';
  const count = await metric(counted);
  // We are root, as the data plane is, but not the data plane.
  const connection = await native.PacketConnection.connect(join(n1, "keys.sock"));
  await connection.send(withdraw, []).catch(() => undefined);
  expect(await connection.receive(256).catch(() => null)).toBeNull();
  connection.close();
  expect(await metric(counted)).toBe(count + 1);
  expect(agentLog()).toContain("key request of another process refused");

  const agent = mesh.children().get("node-n1") ?? 0;
  const kept = readdirSync(`/proc/${agent}/fd`).filter((fd) =>
    linkOf(`/proc/${agent}/fd/${fd}`).startsWith("/memfd:"),
  );
  expect(kept).toHaveLength(1);
  const fd = openSync(`/proc/${agent}/fd/${kept[0] ?? ""}`, "r");
  expect(native.memfdSeals(fd) & 0xf).toBe(0xf);
  closeSync(fd);
  await unharmed(before);
});

function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return "";
  }
}

test("garbage where HTTP/2 is spoken", async () => {
  const before = await mesh.ready("n1", "n2");
  const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
  for (const data of [
    Buffer.alloc(65_536, 0xff),
    Buffer.from(`${preface}\xff\xff\xff\xff`, "latin1"),
    Buffer.from(preface),
  ]) {
    await new Promise<void>((resolve) => {
      const socket = connect(join(n1, "xds.sock"), () => socket.end(data));
      socket.on("error", () => undefined);
      socket.resume().on("close", () => resolve());
    });
  }
  await unharmed(before);
});

test("a certificate for an identity of another node, of nobody, or of another trust domain", async () => {
  const before = await mesh.ready("n1", "n2");
  const counted = 'meltemi_certificate_relays_total{result="refused"}';
  const count = await metric(counted);
  const client = new IstioCertificateServiceClient(
    unixTarget(join(n1, "xds.sock")),
    credentials.createInsecure(),
  );
  const ask = async (identity: string): Promise<number> => {
    const { pem } = await makeRequest({ uris: [identity] });
    return new Promise((resolve) =>
      client.createCertificate(
        { csr: pem, validityDuration: 3600, metadata: { ImpersonatedIdentity: identity } },
        new Metadata(),
        (error: ServiceError | null) => resolve(error?.code ?? grpcCode.OK),
      ),
    );
  };
  try {
    expect(await ask("spiffe://cluster.local/ns/shop/sa/cart"), "its own").toBe(grpcCode.OK);
    for (const identity of [
      "spiffe://cluster.local/ns/shop/sa/front",
      "spiffe://cluster.local/ns/shop/sa/nobody",
      "spiffe://other.domain/ns/shop/sa/cart",
    ])
      expect(await ask(identity), identity).toBe(grpcCode.PERMISSION_DENIED);
  } finally {
    client.close();
  }
  expect(await metric(counted)).toBe(count + 3);
  expect(agentLog()).toContain("certificate request refused");
  await unharmed(before);
});

test("a half-written file while traffic flows", async () => {
  const before = await mesh.ready("n1", "n2");
  const traffic = mesh.traffic("front");
  const file = join(mesh.config, "cart.yaml");
  const whole = mesh.manifest("cart");
  writeFileSync(file, whole.slice(0, whole.indexOf("serviceAccountName")));
  await eventually(
    "the problem to be named",
    async () => {
      const { body } = await callUnixHttp({
        socketPath: join(mesh.run, "control-plane/control-admin.sock"),
        path: "/problems",
      });
      return body.toString().includes("cart.yaml");
    },
    20_000,
  );
  await unharmed(before);
  mesh.writePod("cart");
  const { ok, requests } = await traffic.stop();
  // How many is the machine's speed.
  expect(ok).toBeGreaterThan(0);
  expect(ok).toBe(requests);
});

test("a namespace that does not exist is said, and its pod enrolled once it does", async () => {
  const before = await mesh.ready("n1", "n2");
  const late = (netns: string): string =>
    mesh
      .manifest("cart", { netns, ip: "10.88.1.77" })
      .replaceAll("cart", "late")
      .replace("netns: late", `netns: ${netns}`);
  writeFileSync(join(mesh.config, "late.yaml"), late("h-late"));
  const failed = await mesh.podReaches("late", "failed");
  expect(failed.reason).toMatch(/network namespace "h-late" cannot be opened.*ENOENT/);
  await mesh.topology.addPod("late", "n1", 77);
  await mesh.podReaches("late", "enrolled");
  await unharmed(before);
});

test("of two pods with one address or one namespace the later is refused, and the first goes on", async () => {
  const before = await mesh.ready("n1", "n2");
  const twin = mesh.manifest("late").replaceAll("name: late", "name: twin");
  writeFileSync(join(mesh.config, "twin.yaml"), twin);
  const failed = await mesh.podReaches("twin", "failed");
  expect(failed.reason).toMatch(/already belongs to pod shop\/late/);
  expect((await mesh.pod("late"))?.state).toBe("enrolled");
  await runCommand("rm", [join(mesh.config, "twin.yaml")]);
  await unharmed(before);
});

test("a namespace made anew under its name is another one: served anew, and the former forgotten", async () => {
  const inodes = async (): Promise<number[]> => {
    const { body } = await callUnixHttp({
      socketPath: join(n1, "node-admin.sock"),
      path: "/proxy/config_dump",
    });
    const { pods } = JSON.parse(body.toString()) as { pods: { name: string; netns_inode: number }[] };
    return pods.filter(({ name }) => name === "late").map(({ netns_inode: inode }) => inode);
  };
  const [former] = await inodes();
  // The agent's descriptor keeps the former namespace alive for a moment: its link goes first, as with a CNI plugin.
  await runIn(mesh.topology.pod("late").node.netns, "ip", ["link", "delete", "p1x77"]);
  await mesh.topology.removePod("late");
  await mesh.topology.addPod("late", "n1", 77);
  await eventually(
    "it to be served in the new one",
    async () => {
      const now = await inodes();
      return now.length === 1 && now[0] !== former;
    },
    20_000,
  );
  await mesh.podReaches("late", "enrolled");
  await mesh.works("late");
  await runCommand("rm", [join(mesh.config, "late.yaml")]);
  await eventually("it to be gone", async () => (await mesh.pod("late")) === undefined);
});

test("a pod that comes back under its name with another account has that identity, and not the former", async () => {
  await allow("front");
  await mesh.works();
  mesh.writePod("front", { serviceAccount: "other" });
  await eventually(
    "the new identity",
    async () => {
      const held = await mesh.cli<{ node: string; identity: string; state: string }[]>("certificates");
      const mine = held
        .filter(({ node, state }) => node === "n2" && state === "valid")
        .map(({ identity }) => identity);
      return mine.length === 1 && mine[0] === "spiffe://cluster.local/ns/shop/sa/other";
    },
    20_000,
  );
  await mesh.podReaches("front", "enrolled");
  expect((await mesh.request("front")).ok, "the policy names the former account").toBe(0);
  mesh.writePod("front");
  await mesh.works();
});

/** Only that account may call the cart. */
async function allow(account: string): Promise<void> {
  const policy = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: callers, namespace: shop }
spec:
  selector: { matchLabels: { app: cart } }
  rules: [{ from: [{ source: { principals: [cluster.local/ns/shop/sa/${account}] } }] }]
`;
  writeFileSync(join(mesh.config, "policy.yaml"), policy);
  await eventually("the policy to be in force", async () => {
    const { body } = await callUnixHttp({
      socketPath: join(n1, "node-admin.sock"),
      path: "/proxy/config_dump",
    });
    return body.toString().includes(`sa/${account}`) && body.toString().includes("callers");
  });
}

/** Valid certificates that the agents keep for the next data planes. */
const serials = async (): Promise<string[]> => {
  const held =
    await mesh.cli<{ node: string; serial: string; state: string; kept: boolean }[]>("certificates");
  return held
    .filter(({ state, kept }) => state === "valid" && kept)
    .map(({ node, serial }) => `${node} ${serial}`)
    .sort();
};

test("data planes killed while the control plane is away come back with the same keys", async () => {
  const dataPlanes = await mesh.ready("n1", "n2");
  await mesh.works();
  const before = await eventually("both certificates", async () => {
    const now = await serials();
    return now.length === 2 && now;
  });
  const controlPlane = mesh.children().get("control-plane") ?? 0;
  process.kill(controlPlane, "SIGSTOP");
  try {
    for (const pid of dataPlanes.values()) process.kill(pid, "SIGKILL");
    await eventually(
      "others to serve",
      async () =>
        (await mesh.nodes()).every(
          ({ node, pods, data_plane: { pid, ready } }) =>
            ready && pid !== dataPlanes.get(node) && pods.every(({ state }) => state === "enrolled"),
        ),
      20_000,
    );
    await mesh.works();
    expect(await serials()).toEqual(before);
  } finally {
    process.kill(controlPlane, "SIGCONT");
  }
  await mesh.ready("n1", "n2");
});

test("agents and data planes restarted while the control plane is away: what was allowed is, the rest is refused", async () => {
  await mesh.topology.addPod("thief", "n2", 66);
  mesh.writePod("thief");
  await mesh.podReaches("thief", "enrolled");
  await eventually("the thief's certificate", async () => (await serials()).length === 3);
  expect((await mesh.request("thief")).ok).toBe(0);
  await mesh.works();
  const controlPlane = mesh.children().get("control-plane") ?? 0;
  process.kill(controlPlane, "SIGSTOP");
  try {
    const agents = [...mesh.children()].filter(([name]) => name !== "control-plane");
    for (const [, pid] of agents) process.kill(pid, "SIGKILL");
    const served = (other: ReadonlyMap<string, number>) =>
      eventually(
        "all pods to be served",
        async () => {
          const nodes = await mesh.nodes();
          const good = nodes.every(
            ({ node, pods, data_plane: { pid, ready } }) =>
              ready &&
              pid !== other.get(node) &&
              pods.length > 0 &&
              pods.every(({ state }) => state === "enrolled"),
          );
          return (
            nodes.length === 2 && good && new Map(nodes.map(({ node, data_plane }) => [node, data_plane.pid]))
          );
        },
        30_000,
      );
    const dataPlanes = await served(new Map());
    await eventually("keys to be deposited again", async () => (await serials()).length === 3);
    for (const pid of dataPlanes.values()) process.kill(pid, "SIGKILL");
    await served(dataPlanes);
    await mesh.works();
    expect((await mesh.request("thief")).ok, "refused before, refused now").toBe(0);
    const unknown = await mesh.request(
      "front",
      `http://${mesh.topology.pod("cart").node.ip}:8080/`,
      "--timeout-ms",
      "2000",
    );
    expect(unknown.ok, "not known, and nobody to ask: not passed in the clear").toBe(0);
  } finally {
    process.kill(controlPlane, "SIGCONT");
  }
  await mesh.ready("n1", "n2");
});

test("a full disk, and one that cannot be written at all, do not take the node down", async () => {
  await runCommand("sh", ["-c", `dd if=/dev/zero of=${stateOfN1}/filling bs=64k 2>/dev/null || true`]);
  for (const how of ["full", "read-only"]) {
    // Over it, not in place: what is open for writing there keeps a file system from becoming read-only.
    if (how === "read-only") {
      await runCommand("mount", ["--bind", stateOfN1, stateOfN1]);
      await runCommand("mount", ["-o", "remount,bind,ro", stateOfN1]);
    }
    const before = await mesh.ready("n1", "n2");
    const agent = mesh.children().get("node-n1") ?? 0;
    process.kill(agent, "SIGKILL");
    process.kill(before.get("n1") ?? 0, "SIGKILL");
    const now = await eventually(
      `a new data plane (${how})`,
      async () => {
        const found = await mesh.ready("n1", "n2");
        return found.get("n1") !== before.get("n1") && found;
      },
      40_000,
    );
    await mesh.works();
    const running = readdirSync("/proc").filter(
      (name) => /^\d+$/.test(name) && commandOf(name).includes(`ztunnel --node n1 `),
    );
    expect(running.map(Number)).toEqual([now.get("n1")]);
  }
  expect(agentLog()).toContain("data plane runs without its log");
  await runCommand("umount", [stateOfN1]);
  await runCommand("rm", [join(stateOfN1, "filling")]);
});

test("an agent killed before it noted its data plane: the next one finds it, and no second is started", async () => {
  const before = await mesh.ready("n1", "n2");
  await runCommand("rm", [join(n2, "proxy.json")]);
  const agent = mesh.children().get("node-n2") ?? 0;
  process.kill(agent, "SIGKILL");
  await eventually("another agent", () => mesh.children().get("node-n2") !== agent);
  await unharmed(before);
});
