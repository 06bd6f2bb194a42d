import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { eventually, run, runIn } from "../../../demo/lab/command.js";
import { Topology, type LabPod } from "../../../demo/lab/topology.js";
import { FakeDataPlane } from "../../contract/node/fake-data-plane.js";
import { meshNamespace, pod, startCore, type Core } from "./harness.js";
import { datagram, dump, greeter, greeting, holder, PodProgram, settled, udpEcho } from "./probes.js";

/** The guard where BPF is missing, in both modes that need none. The agent's own namespace plays the host. */
describe.each(["nftables", "iptables"] as const)("the weaker guard, mode %s", (mode) => {
  const topology = new Topology(mode === "nftables" ? "v" : "w");
  const host = `host-${mode}`;
  let a: LabPod;
  let b: LabPod;
  let core: Core;
  let dataPlane: FakeDataPlane | undefined;
  const programs: PodProgram[] = [];

  beforeAll(async () => {
    await topology.up(["n1"]);
    await run("ip", ["netns", "attach", host, String(process.pid)]);
    a = await topology.addPod("a", "n1", 2);
    b = await topology.addPod("b", "n1", 3);
    await settled(b.netns);
  });
  afterAll(async () => {
    await run("ip", ["netns", "delete", host]);
    await topology.down();
  });
  afterEach(async () => {
    await core.pods.leaveAll();
    await core.kill();
    dataPlane?.close();
    for (const program of programs.splice(0)) await program.stop();
  });

  const enrol = async (annotations: Record<string, string> = {}, udp?: string): Promise<void> => {
    core = await startCore({ redirectMode: mode });
    const object = pod("b", b.ip, b.netns);
    core.apply(
      {
        type: "apply",
        object: meshNamespace("default", {
          "istio.io/dataplane-mode": "ambient",
          ...(udp !== undefined && { "meltemi.io/udp": udp }),
        }),
      },
      {
        type: "apply",
        object: { ...object, meta: { ...object.meta, annotations: new Map(Object.entries(annotations)) } },
      },
    );
    const path = join(core.directory, "zds.sock");
    dataPlane = await eventually("zds.sock", () => FakeDataPlane.connect(path));
    await eventually("b to be enrolled", () => core.pods.status[0]?.state === "enrolled" || undefined);
    expect(core.pods.status[0]).toMatchObject({ mode, guard: "nftables" });
  };
  const counted = (reason: string) =>
    eventually(`${reason} to be counted`, () => (core.drops.get(reason) ?? 0) > 0 || undefined);
  /** A client in the agent's own namespace, which routes to the pods: the host. */
  const fromHost = (ip: string): Promise<string> => greeting(host, ip, 8080);

  it("lets the host's own connections pass, by what they carry and not by their address", async () => {
    programs.push(
      await PodProgram.start(b.netns, greeter(8080, "direct")),
      await PodProgram.listener(b.netns, 15006, "inbound"),
    );
    await enrol();
    for (const ip of [b.ip, b.ip6]) {
      expect(await fromHost(ip)).toBe("direct");
      // Another pod, and the node between them, which this agent's namespace is not.
      expect(await greeting(a.netns, ip, 8080)).toBe("inbound");
      expect(await greeting(a.node.netns, ip, 8080)).toBe("inbound");
    }
    await counted("host");
    await runIn(host, "nft", ["flush", "ruleset"]);
    await eventually("the repair", () => core.repairs.includes("host table missing") || undefined);
    expect(await fromHost(b.ip)).toBe("direct");
    await core.pods.leaveAll();
    expect(await runIn(host, "nft", ["list", "ruleset"])).toBe("");
  });

  it("stops what does not carry the mark, also when the redirection is gone, and lets go on what was there", async () => {
    programs.push(
      await PodProgram.start(a.netns, greeter(8080, "direct")),
      await PodProgram.start(b.netns, greeter(8080, "direct")),
    );
    const before = await dump(b.netns);
    const held = await PodProgram.start(b.netns, holder(a.ip6, 8080));
    const holding = await PodProgram.start(a.netns, holder(b.ip, 8080));
    programs.push(held, holding);
    await enrol();
    // The redirection alone is taken away, again and again, while a connection is tried.
    const flush =
      mode === "nftables"
        ? "nft delete table inet meltemi"
        : "iptables -t nat -F OUTPUT; iptables -t mangle -F PREROUTING; ip6tables -t nat -F OUTPUT; ip6tables -t mangle -F PREROUTING";
    const flushing = runIn(b.netns, "sh", [
      "-c",
      `for i in $(seq 60); do ${flush}; sleep 0.02; done 2>/dev/null; true`,
    ]);
    for (const [from, to, ip] of [
      [a, b, b.ip],
      [b, a, a.ip],
      [b, a, a.ip6],
    ] as const) {
      expect([from.name, to.name, await greeting(from.netns, ip, 8080, 400)]).not.toContain("direct");
    }
    await flushing;
    held.write("still here\n");
    expect(await held.line("echo")).toBe("echo still here");
    holding.write("and here\n");
    expect(await holding.line("echo")).toBe("echo and here");
    await counted("before");
    await core.pods.leaveAll();
    expect(await dump(b.netns)).toBe(before);
  });

  it("leaves alone what the pod's owner has excluded, and refuses UDP where that is asked for", async () => {
    programs.push(
      await PodProgram.start(a.netns, greeter(8080, "direct")),
      await PodProgram.start(a.netns, greeter(9090, "direct")),
      await PodProgram.start(b.netns, greeter(9100, "direct")),
      await PodProgram.start(b.netns, udpEcho(53)),
      await PodProgram.listener(b.netns, 15001, "outbound"),
    );
    await enrol(
      {
        "meltemi.io/exclude-inbound-ports": "9100",
        "traffic.sidecar.istio.io/excludeOutboundPorts": "9090, x",
        "meltemi.io/exclude-outbound-cidrs": `${a.ip6}/128`,
      },
      "refuse",
    );
    expect(await greeting(a.netns, b.ip, 9100)).toBe("direct");
    expect(await greeting(a.netns, b.ip6, 9100)).toBe("direct");
    expect(await greeting(b.netns, a.ip, 9090)).toBe("direct");
    expect(await greeting(b.netns, a.ip6, 8080)).toBe("direct");
    expect(await greeting(b.netns, a.ip, 8080)).toBe("outbound");
    expect(await datagram(a.netns, b.ip, 53)).toBe("timeout");
    await counted("excluded");
    await counted("udp_refused");
  });
});
