/** Agent and data plane with the privileges of daemonset/ and no others, through all that a node lives through. */
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { eventually } from "../../helpers/eventually.js";
import { dump } from "../node/probes.js";
import { workingModes } from "../working-modes.js";
import { settledDump } from "../settled-dump.js";
import { ConfinedMesh } from "./confined-mesh.js";
import { containerWithout, listedCapabilities, type ContainerName } from "./confined-node.js";

/** linux/capability.h */
const numbers: Readonly<Record<string, number>> = {
  NET_ADMIN: 12,
  NET_RAW: 13,
  SYS_PTRACE: 19,
  SYS_ADMIN: 21,
};

const maskOf = (name: ContainerName): bigint =>
  listedCapabilities(name).reduce((mask, one) => mask | (1n << BigInt(numbers[one] ?? 63)), 0n);

/** What the kernel says of a process's privileges (proc_pid_status(5)). */
function privileges(pid: number): Record<string, bigint> {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const read = (field: string, base: string): bigint =>
    BigInt(`${base}${new RegExp(`^${field}:\\s*(\\w+)`, "m").exec(status)?.[1] ?? ""}`);
  return {
    effective: read("CapEff", "0x"),
    permitted: read("CapPrm", "0x"),
    bounding: read("CapBnd", "0x"),
    inheritable: read("CapInh", "0x"),
    ambient: read("CapAmb", "0x"),
    noNewPrivs: read("NoNewPrivs", ""),
    seccomp: read("Seccomp", ""),
  };
}

const working = workingModes();

describe.each(working)("a confined node, mode %s", (mode) => {
  const mesh = new ConfinedMesh("v", `/run/meltemi/privilege-${mode}`, mode);
  const before = new Map<string, string>();

  beforeAll(async () => {
    await mesh.up();
    if (working.includes("bpf")) await mesh.mountBpffs();
    for (const { name, netns } of mesh.topology.pods) before.set(name, await settledDump(netns));
    mesh.start();
  });
  afterAll(() => mesh.down());

  it("enrols its pods and carries their traffic, with what is listed and no more", async () => {
    await mesh.enrolled();
    await mesh.works();
    expect((await mesh.node("n1").podReaches("cart", "enrolled")).mode).toBe(mode);
    for (const node of mesh.nodes.values()) {
      for (const name of ["agent", "data-plane"] as const) {
        const listed = maskOf(name);
        expect(privileges(node.pid(name)), name).toEqual({
          effective: listed,
          permitted: listed,
          bounding: listed,
          inheritable: 0n,
          ambient: 0n,
          noNewPrivs: 1n,
          seccomp: 2n,
        });
      }
    }
  });

  it("renews its certificates while the root is replaced", async () => {
    await mesh.controlPlane.cli("ca", "rotate", "root");
    await eventually(
      "the rotation to end",
      async () =>
        (await mesh.controlPlane.json<{ phase: string; version: number }>("ca", "status")).phase === "stable",
      30_000,
    );
    await mesh.works();
  });

  it("serves again after both of its processes were killed", async () => {
    for (const node of mesh.nodes.values()) {
      await node.end("agent", "SIGKILL");
      await node.end("data-plane", "SIGKILL");
    }
    mesh.start();
    await mesh.enrolled();
    await mesh.works();
  });

  it("lets its pods go, and leaves nothing in them", async () => {
    mesh.unEnrol();
    onTestFinished(() => mesh.enrol());
    for (const { name, netns } of mesh.topology.pods) {
      let now = "";
      await eventually(
        `${name} to be as it was`,
        async () => (now = await dump(netns)) === before.get(name),
        20_000,
      ).catch(() => undefined);
      expect(now, name).toBe(before.get(name));
    }
    await eventually("a request without the mesh", () => mesh.request());
  });

  const each = (name: ContainerName) =>
    listedCapabilities(name).map((capability) => [name, capability] as const);

  it.each([...each("agent"), ...each("data-plane")])("%s needs %s", async (name, capability) => {
    const node = mesh.node("n1");
    await node.stop();
    const less = containerWithout(mesh.directory, name, capability);
    const other = name === "agent" ? "data-plane" : "agent";
    node.start(other);
    node.start(name, less);
    expect(await node.refusal("cart")).toMatch(/EPERM|EACCES|not permitted|denied/i);
    await node.stop();
    node.start("agent");
    node.start("data-plane");
    await node.podReaches("cart", "enrolled");
    await mesh.works();
  });
});
