/** A hundred pods by Debian's containerd and runc, with our plugin after bridge, host-local and portmap. */
import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { join } from "node:path";
import { execaSync } from "execa";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { eventually } from "../helpers/eventually.js";
import { CniNode, links, openFiles, sayFrom, type NodePodYaml } from "../netns/cni/node.js";
import { cgroupParent, removeCgroups, startContainerd, type Containerd } from "./containerd.js";

const each = 50;
const atOnce = 4;
const port = 7118;
const gateway = "10.89.0.1";
const directory = "/run/meltemi/containerd-test";
const debianPlugins = "/usr/lib/cni";

/** Root of the machine, not of a user namespace: containerd mounts overlays and makes cgroups. */
const isRoot = /^\s*0\s+0\s+4294967295\s*$/.test(readFileSync("/proc/self/uid_map", "utf8"));
const missing = ["/usr/bin/containerd", "/usr/sbin/runc", `${debianPlugins}/bridge`].filter(
  (path) => !existsSync(path),
);
const reason = !isRoot
  ? "it needs root"
  : missing.length > 0
    ? `there is no ${missing.join(", ")}`
    : undefined;

const declared = (namespace: string, name: string): NodePodYaml => ({
  namespace,
  name,
  uid: `uid-${namespace}-${name}`,
});
const names = Array.from({ length: each }, (_, index) => `pod-${index}`);
const pods = names.flatMap((name) => [declared("shop", name), declared("plain", name)]);
const warmUp = [declared("shop", "first"), declared("plain", "first")];

/** Runs a task for each, a few at a time. */
async function forEach<T>(items: readonly T[], task: (item: T) => Promise<void>): Promise<void> {
  const left = [...items];
  const worker = async (): Promise<void> => {
    for (let item = left.shift(); item !== undefined; item = left.shift()) await task(item);
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
}

const lines = (command: string, ...args: string[]): readonly string[] =>
  execaSync(command, args)
    .stdout.split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "");

const netnsNames = (): readonly string[] =>
  readdirSync("/run/netns").filter((name) => name.startsWith("cni-"));

/** Those that run: the sandbox's first process collects no orphans. */
const shims = (): readonly string[] =>
  readdirSync("/proc").filter((pid) => {
    try {
      const status = /^\d+$/.test(pid) ? readFileSync(`/proc/${pid}/status`, "utf8") : "";
      return /^Name:\tcontainerd-shim/m.test(status) && !/^State:\tZ/m.test(status);
    } catch {
      return false;
    }
  });

if (reason !== undefined) {
  it(`DID NOT RUN: ${reason}`, () => {
    console.warn(`\n!!! The containerd suite did not run: ${reason}. Run npm test as root on Debian.\n`);
    expect(reason).not.toBe("");
  });
} else {
  describe("containerd", () => {
    const node = new CniNode(directory);
    const parent = cgroupParent(randomBytes(4).toString("hex"));
    const reached = new Map<string, string>();
    let containerd: Containerd;
    let server: Server;

    const run = async (pod: NodePodYaml, attempt = 0): Promise<string> => {
      try {
        return await containerd.cri.run({ ...pod, attempt, cgroupParent: parent });
      } catch (error) {
        throw new Error(`${pod.namespace}/${pod.name}: ${String(error)}\n${node.log.slice(-4_000)}`, {
          cause: error,
        });
      }
    };
    const end = async (id: string): Promise<void> => {
      await containerd.cri.stop(id);
      await containerd.cri.remove(id);
    };

    /** All that could leak, as far as the kernel and the processes tell. */
    const traces = async () => {
      const proxy = (await node.dataPlanePid) ?? 0;
      const held = (pid: number): Record<string, number> =>
        Object.fromEntries(
          [...openFiles(pid)].filter(([kind]) => kind === "net" || kind.startsWith("bpf")).sort(),
        );
      const pins = join(node.runDir, "bpf/pods");
      return {
        namespaces: netnsNames(),
        links: [...links()].sort(),
        routes: [...lines("ip", "route"), ...lines("ip", "-6", "route")]
          .map((route) => route.replace(" linkdown", ""))
          .sort(),
        rules: [...lines("ip", "rule"), ...lines("ip", "-6", "rule")],
        nat: lines("iptables-save", "-t", "nat").filter(
          (line) => line.startsWith("-A") || line.startsWith(":"),
        ).length,
        mounts: readFileSync("/proc/self/mountinfo", "utf8")
          .split("\n")
          .filter((line) => line.includes(directory) || line.includes("/netns/")).length,
        pins: existsSync(pins) ? readdirSync(pins) : [],
        shims: shims(),
        agent: held(node.pid),
        dataPlane: held(proxy),
        containerd: held(containerd.pid),
      };
    };
    const descriptors = async (): Promise<readonly number[]> =>
      [node.pid, (await node.dataPlanePid) ?? 0].map((pid) => readdirSync(`/proc/${pid}/fd`).length);

    beforeAll(async () => {
      removeCgroups();
      server = createServer((socket) => {
        const from = socket.remoteAddress?.replace("::ffff:", "") ?? "";
        socket.on("error", () => undefined);
        socket.on("data", (chunk) => reached.set(from, (reached.get(from) ?? "") + chunk.toString()));
      });
      await new Promise<void>((resolve) => server.listen(port, "0.0.0.0", resolve));
      for (const name of readdirSync(debianPlugins))
        symlinkSync(join(debianPlugins, name), join(node.binDir, name));
      const ipam = {
        type: "host-local",
        dataDir: join(directory, "ipam"),
        ranges: [[{ subnet: "10.89.0.0/20" }]],
        routes: [{ dst: "0.0.0.0/0" }],
      };
      const plugins = [
        { type: "bridge", bridge: "cnitest1", isGateway: true, ipMasq: false, hairpinMode: true, ipam },
        { type: "portmap", capabilities: { portMappings: true } },
      ];
      writeFileSync(
        join(node.confDir, "10-net.conflist"),
        JSON.stringify({ cniVersion: "1.0.0", name: "containerd-net", plugins }),
      );
      node.declare("pods.yaml", { shop: "ambient", plain: "none" }, [...warmUp, ...pods]);
      await node.start();
      await eventually("the chain", () => readdirSync(node.confDir).includes("00-meltemi.conflist"));
      mkdirSync("/run/netns", { recursive: true });
      containerd = await startContainerd(join(directory, "containerd"), node.binDir, node.confDir);
      await eventually("the network", async () => (await containerd.cri.notReady()).length === 0, 30_000);
    }, 120_000);

    afterAll(async () => {
      await containerd.end();
      await node.destroy();
      server.close();
      for (const shim of shims()) process.kill(Number(shim), "SIGKILL");
      await eventually("the shims to end", () => shims().length === 0);
      removeCgroups();
    }, 60_000);

    it("starts and stops a hundred pods, in the mesh and not, and nothing of them is left", async () => {
      // The bridge, the mappings' chains and the processes' pools come with the first pod and stay.
      for (const pod of warmUp) await end(await run(pod));
      await eventually("the first pods to be gone", () => shims().length === 0);
      const before = await traces();
      const descriptorsBefore = await descriptors();

      const ids = new Map<string, string>();
      await forEach(pods, async (pod) => {
        ids.set(`${pod.namespace}/${pod.name}`, await run(pod));
        const row = await node.pod(`${pod.namespace}/${pod.name}`);
        expect(row?.state).toBe(pod.namespace === "shop" ? "enrolled" : "out");
      });
      expect(netnsNames()).toHaveLength(2 * each);
      const { mode, guard } = (await node.pod(`shop/${names[0]!}`))!;
      console.log(`${2 * each} pods run, ${each} of them captured by ${mode}, guarded by ${guard}`);
      // What is looked for afterwards is there now.
      if (guard === "bpf") expect((await traces()).pins).toHaveLength(each);

      for (const name of [names[0]!, names[each - 1]!]) {
        const [meshed, plain] = await Promise.all(
          [`shop/${name}`, `plain/${name}`].map((key) => containerd.cri.sandbox(ids.get(key)!)),
        );
        await Promise.all(
          [meshed!, plain!].map(({ netns }) => sayFrom(netns, `${gateway}/${port}`, "hello")),
        );
        expect([reached.get(meshed!.ip), reached.get(plain!.ip)]).toEqual([undefined, "hello"]);
      }

      // The other end of a link in each goes when its namespace goes, however it was held.
      const canaries = netnsNames().map(
        (name, index) => `link add canary-${index} type veth peer name canary netns ${name}`,
      );
      execaSync("ip", ["-batch", "-"], { input: canaries.join("\n") });
      expect(links().filter((name) => name.startsWith("canary-"))).toHaveLength(2 * each);

      await forEach([...ids.values()], end);
      await eventually(
        "every trace to be gone",
        async () => {
          const after = await traces();
          return JSON.stringify(after) === JSON.stringify(before);
        },
        30_000,
      ).catch(async () => expect(await traces()).toEqual(before));
      const descriptorsAfter = await descriptors();
      // Connections to the control plane, which is not there, come and go.
      for (const [index, count] of descriptorsAfter.entries())
        expect(count).toBeLessThanOrEqual(descriptorsBefore[index]! + 4);
    }, 170_000);
  });
}
