import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { eventually, runIn } from "../../../demo/lab/command.js";
import { Topology, type LabPod } from "../../../demo/lab/topology.js";
import { FakeDataPlane } from "../../contract/node/fake-data-plane.js";
import { meshNamespace, pod, startCore, type Core } from "./harness.js";
import { dump, greeter, greeting, PodProgram, settled } from "./probes.js";

/** Redirection by iptables, read from the kernel through the program that is there. */
describe("mode iptables", () => {
  const topology = new Topology("i");
  let a: LabPod;
  let b: LabPod;
  let core: Core;
  let dataPlane: FakeDataPlane | undefined;
  const programs: PodProgram[] = [];

  beforeAll(async () => {
    await topology.up(["n1"]);
    a = await topology.addPod("a", "n1", 2);
    b = await topology.addPod("b", "n1", 3);
    await settled(b.netns);
  });
  afterAll(() => topology.down());
  afterEach(async () => {
    await core.pods.leaveAll();
    await core.kill();
    dataPlane?.close();
    for (const program of programs.splice(0)) await program.stop();
  });

  const enrol = async (): Promise<void> => {
    core = await startCore({ redirectMode: "iptables" });
    core.apply(meshApply, { type: "apply", object: pod("b", b.ip, b.netns) });
    const path = join(core.directory, "zds.sock");
    dataPlane = await eventually("zds.sock", () => FakeDataPlane.connect(path));
    await eventually(
      "b to be enrolled",
      () => core.pods.status.find(({ name }) => name === "b")?.state === "enrolled" || undefined,
    );
  };
  const meshApply = { type: "apply", object: meshNamespace("default") } as const;

  it("redirects both families both ways, touches no other rule, and leaves everything as it was", async () => {
    for (const program of ["iptables", "ip6tables"])
      await runIn(b.netns, program, [
        "-t",
        "mangle",
        "-A",
        "PREROUTING",
        "-p",
        "udp",
        "--dport",
        "9",
        "-j",
        "DROP",
      ]);
    const before = await dump(b.netns);
    const saved = (): Promise<string> => runIn(b.netns, "sh", ["-c", "iptables-save; ip6tables-save"]);
    const rules = (await saved()).split("\n").filter((line) => line.startsWith("-A"));
    programs.push(
      await PodProgram.start(a.netns, greeter(8080, "direct")),
      await PodProgram.start(b.netns, greeter(8080, "direct")),
      await PodProgram.listener(b.netns, 15006, "inbound"),
      await PodProgram.listener(b.netns, 15001, "outbound"),
    );
    await enrol();
    expect(core.pods.status.find(({ name }) => name === "b")).toMatchObject({ mode: "iptables" });
    for (const [from, to] of [
      [a.ip, b.ip],
      [a.ip6, b.ip6],
    ] as const) {
      expect(await greeting(a.netns, to, 8080)).toBe("inbound");
      expect(await greeting(b.netns, from, 8080)).toBe("outbound");
      expect(await greeting(b.netns, to, 8080)).toBe("direct");
      expect(await greeting(a.netns, to, 15006, 500)).toBe("timeout");
    }
    expect(core.repairs).toEqual([]);
    const present = await saved();
    for (const rule of rules) expect(present).toContain(rule);
    expect(present).toMatch(/-A MELTEMI_IN .*TPROXY --on-port 15006/);
    await eventually("the drops to be counted", () => (core.drops.get("proxy_port") ?? 0) >= 2 || undefined);

    await core.pods.leaveAll();
    expect(await dump(b.netns)).toBe(before);
  });

  it("puts right what is flushed, and stops at nothing when the data plane is away", async () => {
    programs.push(await PodProgram.start(b.netns, greeter(8080, "direct")));
    await enrol();
    expect(await greeting(a.netns, b.ip, 8080, 500)).toBe("timeout");
    core.repairs.length = 0;
    await runIn(b.netns, "iptables", ["-t", "mangle", "-F", "MELTEMI_IN"]);
    await eventually("the repair", () => core.repairs.includes("chains changed") || undefined);
    core.repairs.length = 0;
    await runIn(b.netns, "sh", ["-c", "ip6tables -t nat -F && ip6tables -t nat -X"]);
    await eventually("the repair", () => core.repairs.includes("chains changed") || undefined);
    expect(await runIn(b.netns, "ip6tables", ["-t", "nat", "-S"])).toContain("-A OUTPUT -j MELTEMI_OUT");
  });
});
