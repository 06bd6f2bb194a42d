import { spawn } from "node:child_process";
import { existsSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import { eventually } from "../../test/helpers/eventually.js";
import { scratchDirectory } from "../../test/helpers/scratch.js";
import { systemClock } from "./clock.js";
import { loadNative } from "./native.js";
import { systemProcesses, type OwnedProcess } from "./process.js";

const processes = systemProcesses(loadNative(), systemClock);

async function start(script: string, directory = scratchDirectory()): Promise<OwnedProcess> {
  return processes.spawnDetached({
    command: "/bin/sh",
    args: ["-c", script],
    env: { PATH: process.env["PATH"] ?? "" },
    cwd: directory,
    stdoutFile: join(directory, "out.log"),
    stderrFile: join(directory, "err.log"),
  });
}

/** The state letter of /proc/PID/stat; `undefined` when there is no such process. */
function stateOf(pid: number): string | undefined {
  if (!existsSync(`/proc/${pid}/stat`)) return undefined;
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  return stat.slice(stat.lastIndexOf(")") + 2)[0];
}

describe("spawnDetached", () => {
  it("appends the outputs to files of mode 0600, in a session of its own", async () => {
    const directory = scratchDirectory();
    for (const word of ["one", "two"]) {
      const child = await start(
        `echo ${word}; echo ${word} >&2; cut -d' ' -f6 /proc/$$/stat > session; echo $$ > pid`,
        directory,
      );
      expect(await child.exited).toEqual({ code: 0, signal: null });
      child.release();
    }
    expect(readFileSync(join(directory, "out.log"), "utf8")).toBe("one\ntwo\n");
    expect(readFileSync(join(directory, "err.log"), "utf8")).toBe("one\ntwo\n");
    expect(statSync(join(directory, "out.log")).mode & 0o777).toBe(0o600);
    expect(readFileSync(join(directory, "session"), "utf8")).toBe(
      readFileSync(join(directory, "pid"), "utf8"),
    );
  });

  it("tells how it ended", async () => {
    expect(await (await start("exit 3")).exited).toEqual({ code: 3, signal: null });
    const killed = await start("sleep 60");
    expect(killed.signal("SIGKILL")).toBe(true);
    expect(await killed.exited).toEqual({ code: null, signal: "SIGKILL" });
    expect(killed.signal("SIGKILL")).toBe(false);
  });

  it("names the program that cannot be started", async () => {
    const directory = scratchDirectory();
    const started = processes.spawnDetached({
      command: "/nonexistent",
      args: [],
      env: {},
      stdoutFile: join(directory, "out"),
      stderrFile: join(directory, "err"),
    });
    await expect(started).rejects.toMatchObject({
      code: "system",
      message: expect.stringContaining("/nonexistent") as string,
    });
  });
});

describe("stop", () => {
  it("lets a program end by itself", async () => {
    const directory = scratchDirectory();
    const child = await start("trap 'exit 5' TERM; touch ready; while :; do sleep 0.01; done", directory);
    await eventually("the trap", () => existsSync(join(directory, "ready")));
    expect(await child.stop(10_000)).toEqual({ code: 5, signal: null });
  });

  it("kills one that does not, with its descendants in other sessions too", async () => {
    const directory = scratchDirectory();
    const child = await start(
      "trap '' TERM; setsid sh -c 'echo $$ > grandchild; exec sleep 600' & while :; do sleep 0.01; done",
      directory,
    );
    const file = join(directory, "grandchild");
    const grandchild = await eventually(
      "the grandchild",
      () => existsSync(file) && Number(readFileSync(file, "utf8")),
    );
    expect(await child.stop(50)).toEqual({ code: null, signal: "SIGKILL" });
    await eventually("the grandchild's end", () => [undefined, "Z"].includes(stateOf(grandchild)));
  });
});

describe("adopt", () => {
  it("takes up a running process, and sees its end without being its parent's waiter", async () => {
    const child = spawn("sleep", ["60"]);
    const identity = await processes.identify(child.pid!);
    const adopted = await processes.adopt(identity!);
    expect(adopted?.identity).toEqual(identity);
    adopted!.signal("SIGTERM");
    expect(await adopted!.exited).toEqual({ code: null, signal: null });
    adopted!.release();
  });

  it("does not mistake another process, or another boot, for it", async () => {
    const identity = (await processes.identify(process.pid))!;
    expect(await processes.adopt({ ...identity, startTicks: identity.startTicks - 1 })).toBeUndefined();
    expect(
      await processes.adopt({ ...identity, bootId: "00000000-0000-0000-0000-000000000000" }),
    ).toBeUndefined();
    expect((await processes.adopt(identity))?.identity).toEqual(identity);
  });

  it("finds nothing under the number of an ended process", async () => {
    const child = spawn("true");
    await new Promise((resolve) => child.once("exit", resolve));
    expect(await processes.identify(child.pid!)).toBeUndefined();
  });
});

describe("find", () => {
  it("finds what runs our program file with these arguments, and nothing that only looks like it", async () => {
    const mark = scratchDirectory();
    const script = "setInterval(() => undefined, 1000)";
    const children = [
      spawn(process.execPath, ["-e", script, "--", "--run-dir", mark]),
      // The arguments of it, of another program under the same name.
      spawn("/bin/sleep", ["60", "--run-dir", mark], { argv0: process.execPath }),
      // One argument that contains both, and the two in another order.
      spawn(process.execPath, ["-e", script, "--", `--run-dir ${mark}`]),
      spawn(process.execPath, ["-e", script, "--", mark, "--run-dir"]),
    ];
    onTestFinished(() => {
      for (const child of children) child.kill("SIGKILL");
    });
    await eventually("all of them", async () =>
      (await Promise.all(children.slice(2).map(({ pid }) => processes.identify(pid!)))).every(Boolean),
    );
    const found = await eventually("the first", async () => {
      const now = await processes.find(process.execPath, ["--run-dir", mark]);
      return now.length > 0 && now;
    });
    expect(found).toEqual([await processes.identify(children[0]!.pid!)]);
    expect(await processes.find("/nonexistent", ["--run-dir", mark])).toEqual([]);
  });
});
