/** The demo as its users run it: as root and as an ordinary user, sabotaged, interrupted and killed. */
import { readdir, readFile } from "node:fs/promises";
import { execa } from "execa";
import { describe, expect, it } from "vitest";
import { eventually } from "../../demo/lab/command.js";
import { rows } from "../../demo/rows/index.js";
import { sabotages } from "../../demo/rows/row.js";
import type { RowResult } from "../../demo/report.js";

const root = new URL("../../", import.meta.url).pathname;

/** What the machine (here: the sandbox this test runs in) looks like from outside a demo. */
async function traces(): Promise<object> {
  const processes: string[] = [];
  for (const pid of (await readdir("/proc")).filter((name) => /^\d+$/.test(name))) {
    const command = await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
    if (/meltemi-|dist\/demo|bin\/meltemi/.test(command)) processes.push(command.replaceAll("\0", " "));
  }
  const output = async (command: string, ...args: string[]): Promise<string> =>
    (await execa(command, args)).stdout;
  return {
    processes,
    netns: await output("ip", "netns", "list"),
    links: (await output("ip", "-o", "link")).split("\n").length,
    rules: await output("nft", "list", "ruleset"),
    files: [
      ...(await readdir("/run/meltemi")),
      ...(await readdir("/tmp")).filter((name) => name.includes("meltemi")),
    ],
  };
}

function demo(...args: string[]) {
  return execa(process.execPath, ["scripts/demo.mjs", "--json", ...args], {
    reject: false,
    cwd: root,
    stdin: "ignore",
  });
}

const parse = (stdout: string): { rows: RowResult[]; ok: boolean } =>
  JSON.parse(stdout) as { rows: RowResult[]; ok: boolean };

/** Inside a user namespace there is no other user to become: whoever started this is an ordinary one already. */
async function isRealRoot(): Promise<boolean> {
  return /^\s*0\s+0\s/.test(await readFile("/proc/self/uid_map", "utf8"));
}

// Its set-up builds the data plane anew where the tests' own build, with their features, came before.
describe("npm run demo", { timeout: 600_000 }, () => {
  it("passes every row, says nothing but JSON on stdout, and leaves nothing behind", async () => {
    const before = await traces();
    const result = await demo();
    expect(result.stderr).not.toContain("could not");
    const report = parse(result.stdout);
    expect(report.rows.filter((row) => !row.ok)).toEqual([]);
    expect(report.rows.map((row) => row.name)).toEqual(rows.map((row) => row.name));
    expect(result.exitCode).toBe(0);
    expect(await traces()).toEqual(before);
  });

  it("passes as an ordinary user", async () => {
    const become = ["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"];
    const [program, args] = (await isRealRoot())
      ? ["setpriv", [...become, process.execPath]]
      : [process.execPath, [] as string[]];
    const result = await execa(program, [...args, "scripts/demo.mjs", "--json"], {
      reject: false,
      cwd: root,
      stdin: "ignore",
      env: { HOME: "/tmp" },
    });
    expect(parse(result.stdout).rows.filter((row) => !row.ok)).toEqual([]);
    expect(result.exitCode).toBe(0);
  });

  it.each(sabotages)("notices sabotage of %s in exactly its row", async (sabotage) => {
    const result = await demo("--sabotage", sabotage);
    const red = parse(result.stdout).rows.filter((row) => !row.ok);
    const noticed = rows.filter((row) => row.noticed === sabotage).map((row) => row.name);
    expect(
      red.map((row) => row.name),
      JSON.stringify(red),
    ).toEqual(noticed);
    // Red because of what was seen, not because the row broke down.
    expect(red[0]?.seen).not.toContain("could not be tried");
    expect(result.exitCode).toBe(1);
  });

  it.each(["SIGINT", "SIGTERM", "SIGKILL"] as const)("leaves nothing behind after %s", async (signal) => {
    const before = await traces();
    const running = demo();
    const rowsBegun = new Promise<void>((resolve) => {
      running.stderr.on("data", (chunk: Buffer) => {
        if (chunk.toString().includes(rows[0]?.name ?? "")) resolve();
      });
    });
    await rowsBegun;
    running.kill(signal);
    await running;
    await eventually("everything to be gone", async () =>
      JSON.stringify(await traces()) === JSON.stringify(before) ? true : undefined,
    );
    expect(await traces()).toEqual(before);
  });
});
