/** What a container of the node cannot do, tried from inside it. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { execa } from "execa";
import { describe, expect, it, onTestFinished } from "vitest";
import { confine, daemonset, listedCapabilities, type ContainerName } from "./confined-node.js";

interface Outcome {
  readonly code: number | undefined;
  readonly stderr: string;
}

async function inside(
  name: ContainerName,
  writable: readonly string[],
  ...command: readonly string[]
): Promise<Outcome> {
  const mounts = writable.flatMap((path) => ["--writable", path]);
  const file = join(daemonset, `${name}.json`);
  const { exitCode, stderr } = await execa(confine, ["--container", file, ...mounts, "--", ...command], {
    reject: false,
  });
  return { code: exitCode, stderr };
}

/** Calls that are on neither list, and what makes them as root outside. */
const offTheList: readonly (readonly [string, readonly string[]])[] = [
  ["mounts of its own", ["unshare", "--mount", "--propagation", "unchanged", "true"]],
  ["user namespaces", ["unshare", "--user", "true"]],
  ["another process's mounts", ["nsenter", "--mount=/proc/self/ns/mnt", "true"]],
  ["another root", ["chroot", "/", "true"]],
  ["a machine name of its own", ["unshare", "--uts", "true"]],
];

describe.each(["agent", "data-plane"] as const)("inside the %s's container", (name) => {
  it.each(offTheList)("%s cannot be had", async (_, command) => {
    const [program = "", ...args] = command;
    expect((await execa(program, args, { reject: false })).exitCode, "outside").toBe(0);
    const { code, stderr } = await inside(name, [], ...command);
    expect(code).not.toBe(0);
    expect(stderr).toMatch(/not permitted/);
  });

  it("only what is mounted for it can be written", async () => {
    const directory = mkdtempSync(join(tmpdir(), "meltemi-root-"));
    onTestFinished(() => rmSync(directory, { recursive: true }));
    const file = join(directory, "written");
    expect((await inside(name, [directory], "mkdir", file)).code).toBe(0);
    const { code, stderr } = await inside(name, [], "mkdir", `${file}-outside`);
    expect(code).not.toBe(0);
    expect(stderr).toMatch(/Read-only file system/);
  });

  it("a program has what is listed, and nothing to gain by another", async () => {
    const { stdout } = await execa(confine, [
      ...["--container", join(daemonset, `${name}.json`), "--"],
      ...["grep", "-E", "^(CapBnd|NoNewPrivs|Seccomp):", "/proc/self/status"],
    ]);
    const [bounding = "", ...rest] = stdout.split("\n").map((line) => line.split(/\s+/)[1]);
    const bits = BigInt(`0x${bounding}`).toString(2).match(/1/g) ?? [];
    expect(bits).toHaveLength(listedCapabilities(name).length);
    expect(rest).toEqual(["1", "2"]);
  });
});

it("a container that cannot be confined is not started", async () => {
  const missing = await execa(confine, ["--container", "/none.json", "--", "true"], { reject: false });
  expect(missing.exitCode).not.toBe(0);
  expect(missing.stderr).toMatch(/none\.json/);
  const writable = await inside("agent", ["/no/such/place"], "true");
  expect(writable.code).not.toBe(0);
  expect(writable.stderr).toMatch(/\/no\/such\/place/);
});
