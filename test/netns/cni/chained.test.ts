/** The plugin after Debian's own, the agent and its data plane real, the runtime played by runtime.ts. */
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { createServer, type Server } from "node:net";
import { join } from "node:path";
import { execa, execaSync } from "execa";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { eventually } from "../../helpers/eventually.js";
import { canary, CniNode, links, sayFrom } from "./node.js";
import { callCni, otherUser } from "./plugin.js";
import { CniFailure, Runtime, type PodCall } from "./runtime.js";

const debianPlugins = "/usr/lib/cni";
const port = 7117;
const chain = "00-meltemi.conflist";

const kinds = {
  bridge: { type: "bridge", bridge: "cnitest0", isGateway: true, ipMasq: false },
  ptp: { type: "ptp", ipMasq: false },
} as const;

function network(kind: keyof typeof kinds, directory: string, third: number): string {
  const ipam = {
    type: "host-local",
    dataDir: join(directory, "ipam"),
    ranges: [[{ subnet: `10.88.${third}.0/24` }], [{ subnet: `fd88:0:0:${third}::/64` }]],
    routes: [{ dst: "0.0.0.0/0" }, { dst: "::/0" }],
  };
  const plugins = [
    { ...kinds[kind], ipam },
    { type: "portmap", capabilities: { portMappings: true } },
  ];
  // Written as a person would: what is compared later is bytes.
  return `{ "cniVersion": "1.0.0",\n   "name": "${kind}-net", "plugins": ${JSON.stringify(plugins)} }\n\n`;
}

const missing = ["bridge", "ptp", "host-local", "portmap"].filter(
  (name) => !existsSync(join(debianPlugins, name)),
);
if (missing.length > 0) {
  it("DID NOT RUN: Debian's containernetworking-plugins are not installed", () => {
    console.warn(
      `\n!!! No ${missing.join(", ")} in ${debianPlugins}: the plugin's chain was not tried. Run npm test as root on Debian.\n`,
    );
    expect(missing).not.toEqual([]);
  });
}

/** Whether addresses of new links on the node are looked for on the link first, for a second or two. */
const duplicateDetection = "/proc/sys/net/ipv6/conf/default/accept_dad";
const detected = readFileSync(duplicateDetection, "utf8");

/** Bytes that reached a server on the node without the mesh, by the pod's address. */
const reached = new Map<string, string>();
let server: Server;

beforeAll(async () => {
  // ptp's gateway is on such a link, and would answer nobody at first: what is not heard would prove nothing.
  writeFileSync(duplicateDetection, "0");
  server = createServer((socket) => {
    const from = socket.remoteAddress?.replace("::ffff:", "") ?? "";
    socket.on("error", () => undefined);
    socket.on("data", (chunk) => reached.set(from, (reached.get(from) ?? "") + chunk.toString()));
  });
  await new Promise<void>((resolve) => server.listen(port, "::", resolve));
});
afterAll(() => {
  server.close();
  writeFileSync(duplicateDetection, detected);
});

describe.each(missing.length > 0 ? [] : (["bridge", "ptp"] as const))(
  "after %s, host-local and portmap",
  (kind) => {
    const third = kind === "bridge" ? 1 : 2;
    const directory = `/run/meltemi/cni-${kind}`;
    const gateways = [`10.88.${third}.1`, `fd88:0:0:${third}::1`] as const;
    const node = new CniNode(directory);
    const theirs = join(node.confDir, "10-net.conflist");
    const runtime = new Runtime(join(node.confDir, chain), [debianPlugins, node.binDir], {
      portMappings: [{ hostPort: 9000 + third, containerPort: 80, protocol: "tcp" }],
    });
    let theirBytes: Buffer;

    /** A new namespace, for a new container of the pod. */
    function sandbox(pod: string, suffix = ""): PodCall {
      const name = `${kind}-${pod.replace("/", "-")}${suffix}`;
      execaSync("ip", ["netns", "add", name]);
      // As every runtime does, by the loopback plugin.
      execaSync("ip", ["-n", name, "link", "set", "lo", "up"]);
      return { containerId: name, netns: `/run/netns/${name}`, pod, uid: `uid-${pod}` };
    }

    const removeNamespace = ({ netns }: PodCall): void => {
      execaSync("ip", ["netns", "del", netns.slice("/run/netns/".length)]);
    };

    /** What reaches the node when the pod sends a word by IPv4 and by IPv6, from each of its addresses. */
    async function heard({ netns }: PodCall, result: Record<string, unknown>, word: string) {
      await Promise.all(gateways.map((gateway) => sayFrom(netns, `${gateway}/${port}`, word)));
      const { ips } = result as { ips: { address: string }[] };
      return ips.map(({ address }) => reached.get(address.split("/")[0] ?? ""));
    }

    beforeAll(async () => {
      writeFileSync(theirs, network(kind, directory, third));
      theirBytes = readFileSync(theirs);
      node.declare("pods.yaml", { shop: "ambient", plain: "none" }, [
        { namespace: "shop", name: "in", uid: "uid-shop/in" },
        { namespace: "shop", name: "twice", uid: "uid-shop/twice" },
        { namespace: "shop", name: "early", uid: "uid-shop/early" },
        { namespace: "shop", name: "kept", uid: "uid-shop/kept" },
        { namespace: "shop", name: "lost", uid: "uid-shop/lost" },
        { namespace: "plain", name: "out", uid: "uid-plain/out" },
      ]);
      await node.start();
      await eventually("the chain", () => readdirSync(node.confDir).includes(chain));
    });
    afterAll(async () => {
      await node.destroy();
      // The plugin leaves its bridge, with an address that others may want.
      if (kind === "bridge") await execa("ip", ["link", "delete", "cnitest0"], { reject: false });
    });

    it("is installed beside what was there", () => {
      expect(readdirSync(node.binDir)).toEqual(["meltemi-cni"]);
      expect(statSync(join(node.binDir, "meltemi-cni")).mode & 0o777).toBe(0o755);
      expect(readFileSync(theirs).equals(theirBytes)).toBe(true);
    });

    it("has capture in force when ADD returns, and leaves no trace after DEL", async () => {
      const pod = sandbox("shop/in");
      const result = await runtime.add(pod);
      const row = await node.pod("shop/in");
      expect(row).toMatchObject({ state: "enrolled", netns: pod.netns });
      expect(await heard(pod, result, "secret")).toEqual([undefined, undefined]);
      await runtime.check(pod, result);

      canary(`canary-${third}`, pod.netns);
      await runtime.del(pod, result);
      expect((await node.pod("shop/in"))?.state).toBe("out");
      removeNamespace(pod);
      await eventually("the end of the namespace", () => !links().includes(`canary-${third}`));
    });

    it("leaves a pod that did not ask alone", async () => {
      const pod = sandbox("plain/out");
      const result = await runtime.add(pod);
      expect(result).toMatchObject({ cniVersion: "1.0.0", ips: gateways.map((gateway) => ({ gateway })) });
      expect(result["interfaces"]).toContainEqual(
        expect.objectContaining({ name: "eth0", sandbox: pod.netns }),
      );
      expect(await heard(pod, result, "hello")).toEqual(["hello", "hello"]);
      await runtime.check(pod, result);
      await runtime.del(pod, result);
      removeNamespace(pod);
    });

    it("takes calls twice and out of order", async () => {
      const pod = sandbox("shop/twice");
      await runtime.del(pod);
      const result = await runtime.add(pod);
      const ours = {
        ...(JSON.parse(readFileSync(join(node.confDir, chain), "utf8")) as { plugins: object[] }).plugins.at(
          -1,
        ),
        cniVersion: "1.0.0",
        name: `${kind}-net`,
        prevResult: result,
      };
      const again = await callCni({ verb: "ADD", config: ours, ...pod });
      expect([again.exitCode, again.json]).toEqual([0, result]);

      // A second sandbox of the same pod takes its place, and the end of the first changes nothing.
      const second = sandbox("shop/twice", "-b");
      const secondResult = await runtime.add(second);
      expect(await node.pod("shop/twice")).toMatchObject({ state: "enrolled", netns: second.netns });
      const stale = await callCni({ verb: "CHECK", config: ours, ...pod });
      expect(stale.json?.["code"]).toBe(101);
      await runtime.del(pod, result);
      expect(await node.pod("shop/twice")).toMatchObject({ state: "enrolled", netns: second.netns });
      await runtime.check(second, secondResult);

      await runtime.del(second, secondResult);
      await runtime.del(second, secondResult);
      expect((await node.pod("shop/twice"))?.state).toBe("out");
      [pod, second].forEach(removeNamespace);
    });

    it("answers STATUS, and collects what the runtime no longer knows of this network", async () => {
      const [pod, other] = [sandbox("shop/in"), sandbox("shop/twice")];
      const [result, otherResult] = [await runtime.add(pod), await runtime.add(other)];
      const ask = (verb: string, name: string, valid: readonly string[]) => {
        const attachments = valid.map((containerID) => ({ containerID, ifname: "eth0" }));
        const config = { cniVersion: "1.1.0", name, socket: node.socket, statusNeedsAgent: true };
        return callCni({ verb, config: { ...config, "cni.dev/valid-attachments": attachments } });
      };
      expect((await ask("STATUS", `${kind}-net`, [])).exitCode).toBe(0);
      expect((await ask("GC", "another-net", [])).exitCode).toBe(0);
      expect((await ask("GC", `${kind}-net`, [other.containerId])).exitCode).toBe(0);
      await eventually("the pod to leave", async () => (await node.pod("shop/in"))?.state === "out");
      expect(await node.pod("shop/twice")).toMatchObject({ state: "enrolled", netns: other.netns });
      await runtime.del(pod, result);
      await runtime.del(other, otherResult);
      [pod, other].forEach(removeNamespace);
    });

    it(otherUser ? "answers nobody but root" : "DID NOT RUN: another user needs a second one", async () => {
      if (!otherUser) {
        console.warn("the agent's socket was not tried by another user: this sandbox has one only");
        return;
      }
      chmodSync(node.socket, 0o666);
      const script = `require("http").request({ socketPath: ${JSON.stringify(node.socket)}, path: "/cmdstatus", method: "POST" })
      .on("response", (r) => console.log("answered", r.statusCode)).on("error", (e) => console.log(e.code)).end("{}")`;
      const { stdout } = await execa("setpriv", ["--reuid", "65534", process.execPath, "-e", script]);
      expect(["ECONNRESET", "EPIPE"]).toContain(stdout);
      expect(await node.metrics()).toContain('meltemi_peer_refused_total{socket="cni"} 1');
      expect(await node.metrics()).toContain('meltemi_cni_requests_total{verb="status",result="done"} 1');
    });

    // The wait for an address that does not come is the same after every plugin.
    if (kind === "bridge") {
      it("refuses a namespace that has not the pod's address", async () => {
        const pod = sandbox("shop/early");
        const config = {
          cniVersion: "1.0.0",
          name: "other",
          socket: node.socket,
          prevResult: { ips: [{ address: "10.88.9.9/24" }] },
        };
        const answer = await callCni({ verb: "ADD", config, ...pod });
        expect(answer.json?.["code"]).toBe(11);
        expect(answer.json?.["msg"]).toContain("10.88.9.9");
        expect((await callCni({ verb: "DEL", config, ...pod })).exitCode).toBe(0);
        removeNamespace(pod);
      }, 30_000);
    }

    it("with the agent killed: pods that did not ask start, those that did are tried again, and what is there is taken up", async () => {
      const [kept, lost] = [sandbox("shop/kept"), sandbox("shop/lost")];
      await runtime.add(kept);
      const lostResult = await runtime.add(lost);
      await node.end("SIGKILL");

      const early = sandbox("shop/early");
      const failure = await runtime.add(early).catch((error: unknown) => error);
      expect(failure).toBeInstanceOf(CniFailure);
      expect((failure as CniFailure).code).toBe(11);
      await runtime.del(early);
      const out = sandbox("plain/out");
      const beganMs = performance.now();
      const outResult = await runtime.add(out);
      expect(performance.now() - beganMs).toBeLessThan(5_000);
      await runtime.del(out, outResult);
      canary(`canary-l${third}`, lost.netns);
      await runtime.del(lost, lostResult);
      [lost, out].forEach(removeNamespace);

      await node.start();
      await eventually(
        "the pod to be taken up",
        async () => (await node.pod("shop/kept"))?.state === "enrolled",
      );
      await eventually("the lost namespace to go", () => !links().includes(`canary-l${third}`));
      const earlyResult = await runtime.add(early);
      expect(await node.pod("shop/early")).toMatchObject({ state: "enrolled", netns: early.netns });
      await runtime.del(early, earlyResult);
      await runtime.del(kept);
      [early, kept].forEach(removeNamespace);
    }, 60_000);

    it("stays installed while one agent follows another", async () => {
      await node.end("SIGKILL");
      await node.start("--leave-data-plane");
      const before = [node.binDir, node.confDir].map((path) => readdirSync(path));
      expect(await node.end("SIGTERM"), node.log).toBe(0);
      expect([node.binDir, node.confDir].map((path) => readdirSync(path))).toEqual(before);
      expect(before).toEqual([["meltemi-cni"], [chain, "10-net.conflist"]]);
      expect(statSync(node.list).isFile()).toBe(true);
      await node.start();
    }, 60_000);

    it("goes without a trace when the agent ends", async () => {
      mkdirSync(join(node.confDir, "sub"));
      expect(await node.end("SIGTERM"), node.log).toBe(0);
      expect(readdirSync(node.confDir).sort()).toEqual(["10-net.conflist", "sub"]);
      expect(readFileSync(theirs).equals(theirBytes)).toBe(true);
      expect(readdirSync(node.binDir)).toEqual([]);
      expect(() => statSync(node.list)).toThrow("ENOENT");
      expect(() => statSync(node.socket)).toThrow("ENOENT");
    }, 30_000);
  },
);
