import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { eventually, runIn } from "../../../demo/lab/command.js";
import { Topology, type LabPod } from "../../../demo/lab/topology.js";
import { FakeDataPlane } from "../../contract/node/fake-data-plane.js";
import { meshNamespace, pod, startCore, type Core } from "./harness.js";
import { datagram, dump, greeter, greeting, holder, PodProgram, settled, udpEcho } from "./probes.js";

/**
 * Enrolment and capture over the real kernel. The data plane is a fake that acknowledges; programs on its
 * ports inside the pods say when a connection has come to them instead of its destination.
 */
describe("capture of a pod", () => {
  const topology = new Topology("c");
  let a: LabPod;
  let b: LabPod;
  let core: Core;
  const programs: PodProgram[] = [];
  const dataPlanes: FakeDataPlane[] = [];

  beforeAll(async () => {
    await topology.up(["n1"]);
    a = await topology.addPod("a", "n1", 2);
    b = await topology.addPod("b", "n1", 3);
    for (const [where, v6] of [
      [a, "fd00:1::2/64"],
      [b, "fd00:1::3/64"],
    ] as const) {
      await runIn(where.netns, "ip", ["-6", "address", "add", v6, "dev", "eth0", "nodad"]);
      await settled(where.netns);
    }
  });
  afterAll(() => topology.down());

  beforeEach(async () => {
    core = await startCore();
  });
  afterEach(async () => {
    await core.pods.leaveAll();
    await core.kill();
    for (const dataPlane of dataPlanes.splice(0)) dataPlane.close();
    for (const program of programs.splice(0)) await program.stop();
  });

  const start = async (where: LabPod, script: string): Promise<PodProgram> => {
    const program = await PodProgram.start(where.netns, script);
    programs.push(program);
    return program;
  };
  /** Stands in for the data plane on one of its ports. */
  const proxy = async (where: LabPod, port: number, word: string): Promise<PodProgram> => {
    const program = await PodProgram.listener(where.netns, port, word);
    programs.push(program);
    return program;
  };
  const connectDataPlane = async (): Promise<FakeDataPlane> => {
    const path = join(core.directory, "zds.sock");
    const dataPlane = await eventually("zds.sock", () => FakeDataPlane.connect(path));
    dataPlanes.push(dataPlane);
    return dataPlane;
  };
  const namespace = { type: "apply", object: meshNamespace("default") } as const;
  const apply = (where: LabPod, fields = {}) =>
    ({ type: "apply", object: pod(where.name, where.ip, where.netns, fields) }) as const;
  const remove = (where: LabPod) =>
    ({ type: "remove", kind: "Pod", namespace: "default", name: where.name }) as const;
  const stateOf = (where: LabPod) => core.pods.status.find(({ name }) => name === where.name);
  const enrolled = (where: LabPod) =>
    eventually(`${where.name} to be enrolled`, () => stateOf(where)?.state === "enrolled" || undefined);
  const failed = (where: LabPod) =>
    eventually(`${where.name} to be refused`, () =>
      stateOf(where)?.state === "failed" ? stateOf(where)?.reason : undefined,
    );
  const enrol = async (...where: LabPod[]): Promise<FakeDataPlane> => {
    core.apply(namespace, ...where.map((one) => apply(one)));
    const dataPlane = await connectDataPlane();
    for (const one of where) await enrolled(one);
    return dataPlane;
  };

  it("redirects new connections both ways and leaves loopback, UDP and what existed alone", async () => {
    await start(b, greeter(8080, "direct"));
    await proxy(b, 15006, "inbound");
    await proxy(b, 15008, "tunnel");
    await proxy(a, 15001, "outbound");
    await start(a, greeter(8081, "loopback"));
    const before = await start(a, holder(b.ip, 8080));
    expect(before.lines[0]).toBe("ready direct");

    await enrol(a, b);
    expect(await greeting(a.netns, b.ip, 8080)).toBe("outbound");
    expect(await greeting(a.node.netns, b.ip, 8080)).toBe("inbound");
    expect(await greeting(a.node.netns, b.ip, 15008)).toBe("tunnel");
    expect(await greeting(a.netns, "127.0.0.1", 8081)).toBe("loopback");
    expect(await greeting(a.netns, a.ip, 8081)).toBe("loopback");
    before.write("still here\n");
    expect(await before.line("echo")).toBe("echo still here");
    await start(b, udpEcho(8080));
    expect(await datagram(a.netns, b.ip, 8080)).toBe("datagram");
  });

  it("exempts no source address: a neighbour with the probes' address is captured too", async () => {
    await start(b, greeter(8080, "direct"));
    await proxy(b, 15006, "inbound");
    await enrol(b);
    await runIn(b.node.netns, "ip", ["address", "add", "169.254.7.127/32", "dev", "pods"]);
    await runIn(b.node.netns, "ip", ["route", "add", `${b.ip}/32`, "dev", "pods", "src", "169.254.7.127"]);
    await runIn(b.netns, "ip", ["route", "add", "169.254.7.127/32", "dev", "eth0"]);
    expect(await greeting(b.node.netns, b.ip, 8080)).toBe("inbound");
    await runIn(b.netns, "ip", ["route", "del", "169.254.7.127/32", "dev", "eth0"]);
    await runIn(b.node.netns, "ip", ["route", "del", `${b.ip}/32`, "dev", "pods", "src", "169.254.7.127"]);
    await runIn(b.node.netns, "ip", ["address", "del", "169.254.7.127/32", "dev", "pods"]);
  });

  it("does not let the data plane's ports be reached from outside, and counts the attempts", async () => {
    await proxy(b, 15001, "outbound");
    await proxy(b, 15006, "inbound");
    await enrol(b);
    expect(await greeting(a.netns, b.ip, 15001)).toBe("timeout");
    expect(await greeting(a.netns, b.ip, 15006)).toBe("timeout");
    await eventually("the drops to be counted", () => (core.drops.get("proxy_port") ?? 0) >= 2 || undefined);
    expect(await greeting(b.netns, "127.0.0.1", 15006)).toBe("timeout");
    await eventually(
      "the drop to be counted",
      () => (core.drops.get("proxy_port_loop") ?? 0) >= 1 || undefined,
    );
  });

  it("redirects IPv6 like IPv4, and keeps the true addresses of what comes in", async () => {
    await start(b, greeter(8080, "direct"));
    await start(a, greeter(8080, "direct"));
    expect(await greeting(a.netns, "fd00:1::3", 8080)).toBe("direct");
    await proxy(b, 15006, "inbound");
    await proxy(b, 15008, "tunnel");
    await proxy(b, 15001, "outbound");
    await enrol(b);
    expect(await greeting(a.netns, "fd00:1::3", 8080)).toBe("inbound");
    expect(await greeting(a.netns, "fd00:1::3", 15008)).toBe("tunnel");
    expect(await greeting(b.netns, "fd00:1::2", 8080)).toBe("outbound");
    expect(await greeting(b.netns, "::1", 8080)).toBe("direct");
    expect(await greeting(b.netns, "fd00:1::3", 8080)).toBe("direct");
    for (const [ip, text] of [
      [b.ip, b.ip],
      ["fd00:1::3", "fd00:1::3"],
    ] as const) {
      const client = await start(a, holder(ip, 8080));
      expect(client.lines[0]).toBe("ready inbound");
      const sockets = await runIn(b.netns, "ss", ["-Htn", "state", "established"]);
      expect(sockets).toMatch(new RegExp(`${text}\\]?:8080 `));
    }
    await start(b, udpEcho(8080));
    expect(await datagram(a.netns, "fd00:1::3", 8080)).toBe("datagram");
  });

  it("captures only after the data plane has acknowledged, and reports enrolled only after that", async () => {
    await start(b, greeter(8080, "direct"));
    core.apply(namespace, apply(b));
    await eventually(
      "b to wait for the data plane",
      () => /data plane/.test(stateOf(b)?.reason ?? "") || undefined,
    );
    expect(stateOf(b)?.state).toBe("pending");
    // The guard is in force already: it waits, and does not pass in the clear.
    expect(await greeting(a.netns, b.ip, 8080, 300)).toBe("timeout");
    await connectDataPlane();
    await enrolled(b);
    expect(await greeting(a.netns, b.ip, 8080)).toBe("ECONNREFUSED");
  });

  it("refuses rather than sending in the clear where no data plane comes within the grace", async () => {
    await core.kill();
    core = await startCore({ captureGraceMs: 50 });
    await start(b, greeter(8080, "direct"));
    core.apply(namespace, apply(b));
    await eventually("b to be captured", () => /refused/.test(stateOf(b)?.reason ?? "") || undefined);
    expect(stateOf(b)?.state).toBe("pending");
    expect(await greeting(a.netns, b.ip, 8080)).toBe("ECONNREFUSED");
    await runIn(b.netns, "nft", ["flush", "ruleset"]);
    await eventually("the repair", () => core.repairs.includes("table missing") || undefined);
    expect(await greeting(a.netns, b.ip, 8080)).toBe("ECONNREFUSED");
    await connectDataPlane();
    await enrolled(b);
  });

  it("leaves the namespace as it was when the pod leaves, in whatever way", async () => {
    const before = await dump(b.netns);
    const dataPlane = await enrol(b);
    expect(await dump(b.netns)).not.toBe(before);
    core.apply(remove(b));
    await eventually("b to be gone", () => stateOf(b) === undefined || undefined);
    expect(await dump(b.netns)).toBe(before);
    expect(dataPlane.serving.size).toBe(0);

    core.apply(apply(b));
    await enrolled(b);
    core.apply({ type: "apply", object: meshNamespace("default", {}) });
    await eventually("b to be out", () => stateOf(b)?.reason === "not_labelled" || undefined);
    expect(await dump(b.netns)).toBe(before);
  });

  it("lets carried connections drain when the pod leaves, with new ones going directly", async () => {
    await start(b, greeter(8080, "direct"));
    await proxy(b, 15006, "inbound");
    await enrol(b);
    const carried = await start(a, holder(b.ip, 8080));
    expect(carried.lines[0]).toBe("ready inbound");
    core.apply(remove(b));
    await eventually("new connections to go directly", async () =>
      (await greeting(a.netns, b.ip, 8080)) === "direct" ? true : undefined,
    );
    carried.write("last words\n");
    expect(await carried.line("echo")).toBe("echo last words");
    await carried.stop();
    await eventually("b to be gone", () => stateOf(b) === undefined || undefined);
  });

  it("enrols a pod again that comes back while it is still leaving", async () => {
    await proxy(b, 15006, "inbound");
    const dataPlane = await enrol(b);
    const carried = await start(a, holder(b.ip, 8080));
    core.apply(remove(b));
    await eventually("b to be leaving", () => /leaving/.test(stateOf(b)?.reason ?? "") || undefined);
    core.apply(apply(b));
    await carried.stop();
    await enrolled(b);
    expect(dataPlane.told.map(({ type }) => type)).toEqual(["add", "snapshot", "del", "add"]);
    expect(await dump(b.netns)).toMatch(/tproxy to :15006/);
  });

  it("refuses a namespace that does not hold the pod's address, and the node's own", async () => {
    core.apply(namespace, apply(a, { ips: [b.ip] }));
    expect(await failed(a)).toMatch(/10\.88\.1\.3 is on no interface of network namespace "c-a"/);
    core.apply(apply(b, { netns: "/proc/self/ns/net" }));
    expect(await failed(b)).toMatch(/the node's own/);
    expect(await dump(a.netns)).not.toMatch(/meltemi/);
    core.apply(apply(a));
    await connectDataPlane();
    await enrolled(a);
  });

  it("refuses the later of two pods with one address or one namespace", async () => {
    await enrol(b);
    core.apply({ type: "apply", object: pod("twin", b.ip, b.netns) });
    const twin = await eventually("the twin to be refused", () =>
      core.pods.status.find(({ name, state }) => name === "twin" && state === "failed"),
    );
    expect(twin.reason).toMatch(/address 10\.88\.1\.3 already belongs to pod default\/b/);
    expect(stateOf(b)?.state).toBe("enrolled");
    core.apply(remove(b), { type: "apply", object: pod("twin", b.ip, b.netns) });
    await eventually("the twin to take its place", () =>
      core.pods.status.find(({ name, state }) => name === "twin" && state === "enrolled"),
    );
  });

  it("says which namespace does not exist, and enrols the pod once it does", async () => {
    core.apply(namespace, apply(b, { netns: "c-later" }));
    expect(await failed(b)).toMatch(/network namespace "c-later" cannot be opened/);
    core.apply(apply(b));
    await connectDataPlane();
    await enrolled(b);
  });

  it("repairs what is flushed, removed or changed, and says so", async () => {
    await start(b, greeter(8080, "direct"));
    await enrol(b);
    const intact = await dump(b.netns);
    const repaired = async (part: string, damage: readonly string[]): Promise<void> => {
      core.repairs.length = 0;
      await runIn(b.netns, damage[0] ?? "", damage.slice(1));
      await eventually(`the repair of: ${part}`, () => core.repairs.includes(part) || undefined);
      expect(await dump(b.netns)).toBe(intact);
    };
    await repaired("table missing", ["nft", "flush", "ruleset"]);
    await repaired("table changed", ["nft", "flush", "chain", "inet", "meltemi", "before_routing"]);
    await repaired("guard table missing", ["nft", "delete", "table", "inet", "meltemi-guard"]);
    await repaired("guard table changed", ["nft", "flush", "chain", "inet", "meltemi-guard", "outgoing"]);
    await repaired("policy rule missing", ["ip", "rule", "del", "pref", "32764"]);
    await repaired("local route missing", ["ip", "route", "flush", "table", "100"]);
    expect(await greeting(a.netns, b.ip, 8080)).toBe("ECONNREFUSED");
  });

  it("hears of damage from the kernel, without waiting for the next round", async () => {
    await core.kill();
    core = await startCore({ verifyIntervalMs: 3_600_000 });
    await enrol(b);
    const intact = await dump(b.netns);
    for (const damage of [
      "nft delete table inet meltemi",
      "ip rule del pref 32764",
      "ip route flush table 100",
    ]) {
      core.repairs.length = 0;
      const [command = "", ...args] = damage.split(" ");
      await runIn(b.netns, command, args);
      await eventually("the repair", () => core.repairs.length > 0 || undefined);
      expect(await dump(b.netns)).toBe(intact);
    }
  });

  it("stays in force when the data plane goes, and serves again with the next one", async () => {
    await start(b, greeter(8080, "direct"));
    const first = await enrol(b);
    first.close();
    await eventually("the data plane to be gone", () => core.zds.streams.length === 0 || undefined);
    expect(await greeting(a.netns, b.ip, 8080)).toBe("ECONNREFUSED");
    const second = await connectDataPlane();
    await eventually(
      "the next one to be told",
      () => second.told.some(({ type }) => type === "snapshot") || undefined,
    );
    expect(second.told.map(({ type }) => type)).toEqual(["add", "snapshot"]);
    expect(stateOf(b)?.state).toBe("enrolled");
  });

  it("stays in force when the agent is killed, and the next agent takes over or cleans up", async () => {
    await start(b, greeter(8080, "direct"));
    const [beforeA, beforeB] = [await dump(a.netns), await dump(b.netns)];
    await enrol(a, b);
    await core.kill();
    expect(await greeting(a.node.netns, b.ip, 8080)).toBe("ECONNREFUSED");

    // While it was away, a left the mesh.
    core = await startCore({ directory: core.directory });
    core.apply(namespace, apply(b));
    const dataPlane = await connectDataPlane();
    await enrolled(b);
    expect(dataPlane.told.map(({ type, uid }) => `${type} ${uid}`)).toEqual([
      "add Kubernetes//Pod/default/b",
      "snapshot ",
    ]);
    expect(await dump(a.netns)).toBe(beforeA);
    expect(await dump(b.netns)).not.toBe(beforeB);
    await core.pods.leaveAll();
    expect(await dump(b.netns)).toBe(beforeB);
  });

  it("ends serving a pod whose address has gone, with its capture left in force", async () => {
    const dataPlane = await enrol(b);
    await runIn(b.netns, "ip", ["address", "del", `${b.ip}/24`, "dev", "eth0"]);
    expect(await failed(b)).toMatch(/10\.88\.1\.3/);
    await eventually("b to be withdrawn", () => dataPlane.serving.size === 0 || undefined);
    expect(await dump(b.netns)).toMatch(/table inet meltemi/);
    await runIn(b.netns, "ip", ["address", "add", `${b.ip}/24`, "dev", "eth0"]);
    await runIn(b.netns, "ip", ["route", "replace", "default", "via", "10.88.1.1"]);
    await enrolled(b);
  });
});
