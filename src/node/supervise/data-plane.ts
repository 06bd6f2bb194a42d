import { messageOf } from "../../domain/error.js";
import type { Clock } from "../../platform/clock.js";
import type { Logger } from "../../platform/logger.js";
import type { OwnedProcess, ProcessExit, Processes } from "../../platform/process.js";
import { backoffMs, type Random } from "../../platform/random.js";
import { pause } from "../pause.js";
import type { PidFile } from "./pid-file.js";
import type { Probe } from "./probe.js";

export interface SupervisionOptions {
  readonly command: string;
  readonly args: readonly string[];
  /** Those of the arguments, next to each other, that only this node's data plane has. */
  readonly ownArguments: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly logFile: string;
  /** How long the data plane may take to answer its first probe. */
  readonly startTimeoutMs: number;
  readonly probeIntervalMs: number;
  /** Unanswered probes in a row after which it counts as hung. */
  readonly probeFailures: number;
  /** How long it may drain before it is ended. */
  readonly stopTimeoutMs: number;
}

export interface SupervisionDependencies {
  readonly processes: Processes;
  readonly pidFile: PidFile;
  /** The log file, or another place where it cannot be written: a full disk does not keep the data plane from running. */
  readonly openLog: (path: string) => Promise<string>;
  readonly probe: Probe;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  /** A data plane has ended without being asked to, or was ended because it hung. */
  readonly onRestart: () => void;
  /** A data plane runs (started or taken over) and has answered its first probe. */
  readonly onAnswering: () => void;
}

export interface DataPlaneStatus {
  readonly pid: number | undefined;
  readonly ready: boolean;
  readonly restarts: number;
  readonly sinceMs: number | undefined;
  readonly lastExit: string | undefined;
}

const firstRestartMs = 100;
const lastRestartMs = 10_000;
/** A data plane that has run this long has earned a quick restart again. */
const steadyMs = 30_000;
/** How long after its start a data plane is asked more often. */
const startingMs = 10_000;
const hurriedProbeMs = 100;

/**
 * Keeps one data plane running, in a session of its own: the agent's death does not end it, and the next
 * agent takes it over by the pid file. It is restarted when it ends or no longer answers.
 */
export class DataPlaneSupervisor {
  #process: OwnedProcess | undefined;
  /** Settles when a start that is under way has succeeded or failed. */
  #starting: Promise<unknown> | undefined;
  #ready = false;
  /** Whether this supervisor started it, rather than taking it over. */
  #ours = false;
  #restarts = 0;
  #sinceMs: number | undefined;
  #lastExit: string | undefined;

  constructor(
    private readonly options: SupervisionOptions,
    private readonly dependencies: SupervisionDependencies,
  ) {}

  get status(): DataPlaneStatus {
    return {
      pid: this.#process?.identity.pid,
      ready: this.#ready,
      restarts: this.#restarts,
      sinceMs: this.#sinceMs,
      lastExit: this.#lastExit,
    };
  }

  /**
   * Whether the process is the data plane. A data plane may speak before its start is known here: the answer
   * waits for a start that is under way.
   */
  async owns(pid: number): Promise<boolean> {
    while (this.#process === undefined && this.#starting !== undefined) await this.#starting;
    return this.#process?.identity.pid === pid;
  }

  /** Supervises until the signal aborts, and leaves the data plane running then: `stop` or `release` decides. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, random, log, onRestart } = this.dependencies;
    let attempt = 0;
    while (!signal.aborted) {
      try {
        const process = await this.#start();
        this.#sinceMs = clock.now();
        const exit = await this.#watch(process, signal);
        if (exit === undefined) return;
        if (clock.now() - this.#sinceMs > steadyMs) attempt = 0;
        this.#lastExit = describe(exit);
        log.error("data plane ended", { pid: process.identity.pid, exit: this.#lastExit });
        process.release();
      } catch (error) {
        this.#lastExit = messageOf(error);
        log.error("data plane not started", { error: this.#lastExit });
      }
      this.#process = undefined;
      this.#ready = false;
      this.#sinceMs = undefined;
      await this.#forget();
      this.#restarts += 1;
      onRestart();
      await pause(clock, backoffMs(random, attempt, firstRestartMs, lastRestartMs), signal);
      attempt += 1;
    }
  }

  /** Drains the data plane and ends it: SIGTERM, then SIGKILL after the stop timeout. */
  async stop(): Promise<void> {
    const process = this.#process;
    if (process === undefined) return;
    const exit = await process.stop(this.options.stopTimeoutMs);
    process.release();
    this.#process = undefined;
    this.#ready = false;
    await this.#forget();
    this.dependencies.log.info("data plane stopped", { pid: process.identity.pid, exit: describe(exit) });
  }

  /** Lets go of the data plane: it goes on, for the next agent. */
  release(): void {
    this.#process?.release();
    this.#process = undefined;
  }

  /** Ends a data plane that this supervisor started and lets go of one that it took over: for an agent that fails before it has told it of a pod. */
  async undo(): Promise<void> {
    if (this.#ours) await this.stop();
    else this.release();
  }

  /** A pid file that stays names a process that has ended, which the next agent sees. */
  async #forget(): Promise<void> {
    const { pidFile, log } = this.dependencies;
    await pidFile.remove().catch((error: unknown) => {
      log.error("data plane's pid file not removed", { error: messageOf(error) });
    });
  }

  async #start(): Promise<OwnedProcess> {
    const obtaining = this.#obtain().then((process) => (this.#process = process));
    this.#starting = obtaining.catch(() => undefined);
    try {
      return await obtaining;
    } finally {
      this.#starting = undefined;
    }
  }

  async #obtain(): Promise<OwnedProcess> {
    const { processes, pidFile, openLog, log } = this.dependencies;
    const { command, args, env } = this.options;
    this.#ours = false;
    const adopted = await this.#earlier();
    if (adopted !== undefined) {
      log.info("data plane taken over", { pid: adopted.identity.pid });
      return adopted;
    }
    const logFile = await openLog(this.options.logFile);
    const started = await processes.spawnDetached({
      command,
      args,
      env,
      stdoutFile: logFile,
      stderrFile: logFile,
    });
    this.#ours = true;
    // It runs, noted or not: another one beside it would be worse. `#earlier` finds it without the note.
    await pidFile.write(started.identity).catch((error: unknown) => {
      log.error("data plane not noted", { pid: started.identity.pid, error: messageOf(error) });
    });
    log.info("data plane started", { pid: started.identity.pid, command });
    return started;
  }

  /** The data plane that an earlier agent left: the one it noted, or one that it had no time to note. */
  async #earlier(): Promise<OwnedProcess | undefined> {
    const { processes, pidFile } = this.dependencies;
    const noted = await pidFile.read();
    const known = noted === undefined ? undefined : await processes.adopt(noted);
    if (known !== undefined) return known;
    for (const identity of await processes.find(this.options.command, this.options.ownArguments)) {
      const found = await processes.adopt(identity);
      if (found === undefined) continue;
      await pidFile.write(identity).catch(() => undefined);
      return found;
    }
    return undefined;
  }

  /** Resolves with the exit of the process, or with undefined when the signal aborts. */
  async #watch(process: OwnedProcess, signal: AbortSignal): Promise<ProcessExit | undefined> {
    const over = new AbortController();
    const either = AbortSignal.any([signal, over.signal]);
    const exited = process.exited.then((exit) => {
      over.abort();
      return exit;
    });
    await Promise.race([exited, this.#probe(process, either)]);
    return either.aborted && signal.aborted && !over.signal.aborted ? undefined : exited;
  }

  /** Asks the data plane again and again whether it is ready; ends it when it does not answer at all. */
  async #probe(process: OwnedProcess, signal: AbortSignal): Promise<void> {
    const { probe, clock, log, onAnswering } = this.dependencies;
    const { startTimeoutMs, probeIntervalMs, probeFailures } = this.options;
    const startedMs = clock.monotonic();
    let answered = false;
    let failures = 0;
    for (;;) {
      const answer = await probe(signal);
      if (signal.aborted) return;
      this.#ready = answer === "ready";
      if (answer !== "silent") {
        if (!answered) onAnswering();
        answered = true;
        failures = 0;
      } else {
        failures += 1;
        const hung = answered ? failures >= probeFailures : clock.monotonic() - startedMs > startTimeoutMs;
        if (hung) {
          log.error("data plane does not answer and is ended", { pid: process.identity.pid, failures });
          process.signal("SIGKILL");
          return;
        }
      }
      // Somebody waits for a start; later changes may take an interval to be seen.
      const starting = !this.#ready && clock.monotonic() - startedMs < startingMs;
      const hurry = starting && (answer === "waiting" || !answered);
      await pause(clock, hurry ? Math.min(hurriedProbeMs, probeIntervalMs) : probeIntervalMs, signal);
    }
  }
}

function describe(exit: ProcessExit): string {
  if (exit.signal !== null) return `signal ${exit.signal}`;
  return exit.code === null ? "ended" : `exit code ${exit.code}`;
}
