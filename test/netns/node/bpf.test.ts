import { readdirSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { eventually, run, runIn } from "../../../demo/lab/command.js";
import { Topology, type LabPod } from "../../../demo/lab/topology.js";
import { FakeDataPlane } from "../../contract/node/fake-data-plane.js";
import { meshNamespace, pod, startCore, type Core } from "./harness.js";
import { dump, greeter, greeting, holder, PodProgram, settled } from "./probes.js";

/**
 * Mode bpf and its guard, as the agent sets them. No data plane registers anything here: what is captured meets
 * nobody and is refused, which shows that nothing else lets it pass.
 */
describe("mode bpf", () => {
  const topology = new Topology("e");
  let a: LabPod;
  let b: LabPod;
  let core: Core;
  const dataPlanes: FakeDataPlane[] = [];
  const programs: PodProgram[] = [];

  beforeAll(async () => {
    await topology.up(["n1"]);
    a = await topology.addPod("a", "n1", 2);
    b = await topology.addPod("b", "n1", 3);
    // A second interface, in a network of its own.
    await run("ip", [
      ..."link add name e-net1 type veth peer name net1 netns".split(" "),
      `/run/netns/${b.netns}`,
    ]);
    await run("ip", ["link", "set", "e-net1", "up"]);
    await runIn(b.netns, "ip", ["link", "set", "net1", "up"]);
    await runIn(b.netns, "ip", ["address", "add", "10.99.0.3/24", "dev", "net1"]);
    await settled(b.netns);
  });
  afterAll(() => topology.down());
  afterEach(async () => {
    await core.pods.leaveAll();
    await core.kill();
    core.captures.end();
    for (const dataPlane of dataPlanes.splice(0)) dataPlane.close();
    for (const program of programs.splice(0)) await program.stop();
  });

  const stateOf = () => core.pods.status.find(({ name }) => name === "b");
  const enrol = async (directory?: string): Promise<void> => {
    core = await startCore({
      redirectMode: "bpf",
      dataPlaneRegisters: true,
      ...(directory && { directory }),
    });
    core.apply(
      { type: "apply", object: meshNamespace("default") },
      { type: "apply", object: pod("b", b.ip, b.netns) },
    );
    dataPlanes.push(
      await eventually("zds.sock", () => FakeDataPlane.connect(join(core.directory, "zds.sock"))),
    );
    await eventually("b to be enrolled", () => stateOf()?.state === "enrolled" || undefined);
  };
  const pinned = (): string[] => readdirSync(join(core.directory, "bpf", "pods"));

  it("captures without netfilter, keeps what was there, and leaves the namespace as it was", async () => {
    const before = await dump(b.netns);
    programs.push(
      await PodProgram.start(a.netns, greeter(8080, "direct")),
      await PodProgram.start(b.netns, greeter(8080, "direct")),
    );
    const [coming, going] = [
      await PodProgram.start(a.netns, holder(b.ip, 8080)),
      await PodProgram.start(b.netns, holder(a.ip6, 8080)),
    ];
    programs.push(coming, going);
    await enrol();
    expect(stateOf()).toMatchObject({
      mode: "bpf",
      // Of the links' other ends, which are in the node's namespace, this agent sees none.
      guard: "bpf-in-pod",
    });
    expect(await runIn(b.netns, "nft", ["list", "ruleset"])).toBe("");
    for (const [from, to] of [
      [a.ip, b.ip],
      [a.ip6, b.ip6],
    ] as const) {
      expect(await greeting(a.netns, to, 8080, 500)).not.toBe("direct");
      expect(await greeting(b.netns, from, 8080, 500)).not.toBe("direct");
      expect(await greeting(b.netns, to, 8080)).toBe("direct");
    }
    for (const [held, word] of [
      [coming, "in"],
      [going, "out"],
    ] as const) {
      held.write(`${word}\n`);
      expect(await held.line("echo")).toBe(`echo ${word}`);
    }
    await core.pods.leaveAll();
    expect(await dump(b.netns)).toBe(before);
    expect(pinned()).toEqual([]);
    expect(await greeting(a.netns, b.ip, 8080)).toBe("direct");
  });

  it("captures every interface and address, and those that come later", async () => {
    await enrol();
    const rules = await runIn(b.netns, "ip", ["rule", "show"]);
    for (const address of [b.ip, "10.99.0.3"])
      expect(rules).toContain(`50:\tfrom all to ${address} iif lo lookup 101`);
    expect(await runIn(b.netns, "ip", ["route", "show", "table", "100"])).toMatch(
      /10\.99\.0\.0\/24 .*src 10\.99\.0\.3/,
    );
    await runIn(b.netns, "ip", ["address", "add", "10.99.0.4/24", "dev", "net1"]);
    await eventually("the new address", async () =>
      (await runIn(b.netns, "ip", ["rule", "show"])).includes("to 10.99.0.4 iif lo") ? true : undefined,
    );
    await runIn(b.netns, "ip", ["address", "del", "10.99.0.4/24", "dev", "net1"]);
    await eventually("the old one to go", async () =>
      (await runIn(b.netns, "ip", ["rule", "show"])).includes("10.99.0.4") ? undefined : true,
    );
  });

  it("repairs rules, routes, sysctls and links, each by itself", async () => {
    await enrol();
    const intact = await dump(b.netns);
    for (const [part, damage] of [
      ["policy rule missing", "ip rule del pref 101"],
      ["policy rule missing", "ip -6 rule del pref 60"],
      ["policy rule missing", "ip rule flush"],
      ["local route missing", "ip route flush table 100"],
      ["local route missing", "ip -6 route flush table 101"],
      ["sysctl changed", "sysctl -qw net.ipv4.conf.eth0.accept_local=0"],
      ["sysctl changed", "sysctl -qw net.ipv4.tcp_fwmark_accept=0"],
    ] as const) {
      core.repairs.length = 0;
      await runIn(b.netns, "sh", ["-c", damage]);
      await eventually(`the repair after: ${damage}`, () => core.repairs.includes(part) || undefined);
      await eventually(
        `all of it after: ${damage}`,
        async () => (await dump(b.netns)) === intact || undefined,
      );
    }
  });

  it("is taken over by the next agent after a kill, with the guard in force between them", async () => {
    programs.push(await PodProgram.start(b.netns, greeter(8080, "direct")));
    const before = await dump(b.netns);
    await enrol();
    const { directory } = core;
    await core.kill();
    expect(pinned()).toHaveLength(1);
    expect(await greeting(a.netns, b.ip, 8080, 500)).not.toBe("direct");
    await enrol(directory);
    expect(core.repairs).toEqual([]);
    await core.pods.leaveAll();
    expect(await dump(b.netns)).toBe(before);
  });
});
