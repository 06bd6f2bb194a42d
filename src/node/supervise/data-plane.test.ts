import { describe, expect, it, onTestFinished } from "vitest";
import { eventually } from "../../../test/helpers/eventually.js";
import { RecordingLogger } from "../../../test/helpers/recording-logger.js";
import { steadyRandom } from "../../../test/helpers/seeded-random.js";
import { VirtualClock } from "../../../test/helpers/virtual-clock.js";
import type { OwnedProcess, ProcessExit, ProcessIdentity } from "../../platform/process.js";
import { DataPlaneSupervisor } from "./data-plane.js";
import type { ProbeAnswer } from "./probe.js";

/** Processes that live in memory, and a pid file that survives the supervisor. */
class Machine {
  readonly clock = new VirtualClock();
  readonly running = new Map<number, (exit: ProcessExit) => void>();
  readonly signals: string[] = [];
  file: ProcessIdentity | undefined;
  answer: ProbeAnswer = "ready";
  startError = "";
  fileError = "";
  unnoted: readonly ProcessIdentity[] = [];
  started = 0;
  answering = 0;
  #pids = 100;

  own(pid: number): OwnedProcess {
    let end: (exit: ProcessExit) => void = () => undefined;
    const exited = new Promise<ProcessExit>((resolve) => (end = resolve));
    this.running.set(pid, (exit) => {
      this.running.delete(pid);
      end(exit);
    });
    return {
      identity: { pid, startTicks: 1, bootId: "boot" },
      exited,
      signal: (signal) => {
        this.signals.push(signal);
        if (signal === "SIGKILL") this.end(pid, { code: null, signal });
        return true;
      },
      stop: () => {
        this.signals.push("stop");
        this.end(pid, { code: 0, signal: null });
        return exited;
      },
      release: () => undefined,
    };
  }

  end(pid: number, exit: ProcessExit): void {
    this.running.get(pid)?.(exit);
  }

  supervisor(): DataPlaneSupervisor {
    return new DataPlaneSupervisor(
      {
        command: "proxy",
        args: [],
        ownArguments: ["--run-dir", "/run/n1"],
        env: {},
        logFile: "/dev/null",
        startTimeoutMs: 1000,
        probeIntervalMs: 1000,
        probeFailures: 3,
        stopTimeoutMs: 1000,
      },
      {
        processes: {
          spawnDetached: () => {
            if (this.startError !== "") return Promise.reject(new Error(this.startError));
            this.started += 1;
            return Promise.resolve(this.own((this.#pids += 1)));
          },
          adopt: ({ pid }) => Promise.resolve(this.running.has(pid) ? this.own(pid) : undefined),
          identify: () => Promise.resolve(undefined),
          find: () => Promise.resolve(this.unnoted),
        },
        pidFile: {
          read: () => Promise.resolve(this.file),
          write: (identity) =>
            this.fileError === ""
              ? Promise.resolve(void (this.file = identity))
              : Promise.reject(new Error(this.fileError)),
          remove: () =>
            this.fileError === ""
              ? Promise.resolve(void (this.file = undefined))
              : Promise.reject(new Error(this.fileError)),
        },
        openLog: (path) => Promise.resolve(path),
        probe: () => Promise.resolve(this.answer),
        clock: this.clock,
        random: steadyRandom(1),
        log: new RecordingLogger(),
        onRestart: () => undefined,
        onAnswering: () => (this.answering += 1),
      },
    );
  }
}

function begin(machine = new Machine()) {
  const supervisor = machine.supervisor();
  const end = new AbortController();
  const running = supervisor.run(end.signal);
  onTestFinished(async () => {
    end.abort();
    await running;
  });
  const pid = (): Promise<number> => eventually("a data plane", () => supervisor.status.pid);
  const leave = async (): Promise<void> => {
    end.abort();
    await running;
  };
  return { machine, supervisor, pid, leave };
}

describe("the data plane's supervision", () => {
  it("starts one, and knows it", async () => {
    const { machine, supervisor, pid } = begin();
    expect(await supervisor.owns(101)).toBe(true);
    expect(await supervisor.owns(7)).toBe(false);
    expect(machine.file?.pid).toBe(await pid());
    await eventually("it to be ready", () => supervisor.status.ready);
    expect(machine.answering).toBe(1);
  });

  it("restarts one that ends, with back-off, and counts", async () => {
    const { machine, supervisor, pid } = begin();
    for (const delayMs of [100, 200, 400]) {
      const ended = await pid();
      await eventually("the probe's pause", () => machine.clock.pendingCount > 0);
      machine.end(ended, { code: 1, signal: null });
      await eventually(
        "the pause",
        () => machine.clock.nextDelayMs === delayMs && supervisor.status.pid === undefined,
      );
      expect(machine.file).toBeUndefined();
      await machine.clock.advance(delayMs);
      expect(await pid()).not.toBe(ended);
    }
    expect(supervisor.status).toMatchObject({ restarts: 3, lastExit: "exit code 1" });
    expect(machine.started).toBe(4);
  });

  it("goes on when it cannot be started", async () => {
    const machine = new Machine();
    machine.startError = "no such file";
    const { supervisor, pid } = begin(machine);
    await eventually("the failure", () => supervisor.status.lastExit === "no such file");
    machine.startError = "";
    await machine.clock.advance(100);
    await pid();
  });

  it("ends one that no longer answers, and starts another", async () => {
    const { machine, supervisor, pid } = begin();
    const hung = await pid();
    await eventually("it to be ready", () => supervisor.status.ready);
    machine.answer = "silent";
    await machine.clock.advance(3000);
    expect(machine.signals).toEqual(["SIGKILL"]);
    machine.answer = "waiting";
    await machine.clock.advance(1000);
    expect(await pid()).not.toBe(hung);
    expect(supervisor.status).toMatchObject({ ready: false, lastExit: "signal SIGKILL" });
  });

  it("ends one that never answers within its start timeout, and leaves a slow one alone", async () => {
    const slow = new Machine();
    slow.answer = "waiting";
    const { pid } = begin(slow);
    await pid();
    await slow.clock.advance(60_000);
    expect(slow.signals).toEqual([]);

    const mute = new Machine();
    mute.answer = "silent";
    const other = begin(mute);
    await other.pid();
    await mute.clock.advance(1200);
    expect(mute.signals[0]).toBe("SIGKILL");
  });

  it("takes over one that an earlier agent had no time to note, and notes it", async () => {
    const machine = new Machine();
    machine.own(77);
    machine.unnoted = [{ pid: 77, startTicks: 1, bootId: "boot" }];
    const { pid } = begin(machine);
    expect(await pid()).toBe(77);
    expect(machine.started).toBe(0);
    expect(machine.file?.pid).toBe(77);
  });

  it("keeps one data plane, restarted as ever, while nothing can be written", async () => {
    const machine = new Machine();
    machine.fileError = "no space left on device";
    const { pid, supervisor } = begin(machine);
    const first = await pid();
    await eventually("it to be ready", () => supervisor.status.ready);
    await machine.clock.advance(5000);
    expect(machine.started).toBe(1);
    machine.end(first, { code: 1, signal: null });
    await eventually("the pause", () => supervisor.status.pid === undefined);
    await machine.clock.advance(100);
    expect(await pid()).not.toBe(first);
    expect(machine.running.size).toBe(1);
  });

  it("undoes what it started, and nothing else", async () => {
    const { machine, supervisor, pid, leave } = begin();
    await pid();
    await leave();
    await supervisor.undo();
    expect(machine.signals).toEqual(["stop"]);
    const left = new Machine();
    left.own(77);
    left.file = { pid: 77, startTicks: 1, bootId: "boot" };
    const next = begin(left);
    await next.pid();
    await next.leave();
    await next.supervisor.undo();
    expect(left.signals).toEqual([]);
    expect(left.running.has(77)).toBe(true);
  });

  it("takes over the one that an earlier agent left, and starts none", async () => {
    const { machine, supervisor, pid, leave } = begin();
    const left = await pid();
    await leave();
    supervisor.release();
    expect(machine.running.has(left)).toBe(true);
    const next = begin(machine);
    expect(await next.pid()).toBe(left);
    expect(machine.started).toBe(1);
    await next.leave();
    await next.supervisor.stop();
    expect(machine.signals).toEqual(["stop"]);
    expect(machine.file).toBeUndefined();
  });
});
