/**
 * The whole mesh on one machine: a control plane, and for each node that a pod names an agent (which
 * starts its data plane). Ended in order, it leaves nothing; killed, the next one cleans up after it.
 */
import { readdirSync, rmdirSync } from "node:fs";
import { join } from "node:path";
import { makePrivateDirectory, requirePrivate } from "../../ca/private-files.js";
import { printLogs } from "../../cli/logs.js";
import { messageOf } from "../../domain/error.js";
import { boundLog } from "../../node/supervise/log-file.js";
import { type Clock, every, systemClock } from "../../platform/clock.js";
import { systemFiles } from "../../platform/files.js";
import { createLogger, type Logger } from "../../platform/logger.js";
import { loadNative } from "../../platform/native.js";
import { systemProcesses } from "../../platform/process.js";
import { systemRandom } from "../../platform/random.js";
import { FileSource } from "../../sources/files/file-source.js";
import { controlPlaneArguments } from "../control-plane/options.js";
import { readVersion } from "../version.js";
import { Child, type ChildParts } from "./child.js";
import { DesiredNodes, type DesiredNode } from "./desired-nodes.js";
import { InstanceFile, readFormerInstance } from "./instance-file.js";
import { NodeAgents } from "./node-agents.js";
import { longestNodeName, type StandaloneOptions } from "./options.js";
import { endFormerAgents, endFormerControlPlane, removeFormerNodes } from "./recovery.js";
import { untilAnswers } from "./until-answers.js";
import { DesiredWaypoints, Waypoints } from "./waypoints.js";

const controlPlaneStopMs = 5_000;
const logBytes = 32 << 20;
const logCheckMs = 10_000;

/**
 * What there should be, watched. A file that does not decode at the start stands as it last did, or its
 * nodes would be taken for unwanted ones, and ended.
 */
export function desiredSource(
  options: Pick<StandaloneOptions, "config" | "stateDir">,
  clock: Clock,
  logger: Logger,
): FileSource {
  // Not the control plane's, which keeps its own below the same state directory.
  const lastGood = { directory: join(options.stateDir, "standalone", "last-good"), files: systemFiles };
  return new FileSource({ directory: options.config, clock, logger, lastGood });
}

/** Runs until the signal. Throws what keeps it from starting, with what to do. */
export async function runStandalone(options: StandaloneOptions, signal: AbortSignal): Promise<void> {
  const { controlPlane, runDir, stateDir } = options;
  const clock = systemClock;
  const files = systemFiles;
  const version = readVersion();
  const log = createLogger({
    level: controlPlane.logLevel,
    format: controlPlane.logFormat,
    clock,
    fields: { component: "standalone" },
  });
  const processes = systemProcesses(loadNative(), clock);

  const logs = join(stateDir, "logs");
  for (const directory of [runDir, stateDir, logs, controlPlane.runDir]) {
    makePrivateDirectory(directory);
    requirePrivate(directory);
  }
  const former = await readFormerInstance(files, processes, runDir);
  if (former) await endFormerControlPlane({ processes, log }, former);

  const self = await processes.identify(process.pid);
  const instance = new InstanceFile(files, {
    pid: process.pid,
    startTicks: self?.startTicks ?? 0,
    bootId: self?.bootId ?? "",
    startedAt: new Date(clock.now()).toISOString(),
    version,
    config: options.config,
    stateDir,
    runDir,
  });
  const parts: ChildParts = { processes, instance, clock, random: systemRandom, log };
  const agents = new NodeAgents(options, { ...parts, files });
  const waypoints = new Waypoints(options, { ...parts, files });
  const desired = new DesiredNodes();
  const desiredWaypoints = new DesiredWaypoints();
  // Ends with the caller's signal, and when a part that all depends on fails.
  const stop = new AbortController();
  const onAbort = (): void => stop.abort();
  signal.addEventListener("abort", onAbort, { once: true });
  if (signal.aborted) stop.abort();

  const nodes = (): readonly DesiredNode[] => desired.nodes(longestNodeName(runDir), log);
  let control: Child | undefined;
  let started = false;
  let onFirst: () => void = () => undefined;
  const first = new Promise<void>((resolve) => (onFirst = resolve));
  const source = desiredSource(options, clock, log);
  const sourcing = source.run((batch) => {
    desired.apply(batch);
    desiredWaypoints.apply(batch);
    if (started) {
      void agents.reconcile(nodes());
      void waypoints.reconcile(desiredWaypoints.all);
    } else onFirst();
  }, stop.signal);
  sourcing.catch(onAbort);
  try {
    await Promise.race([first, sourcing]);
    if (former) {
      await endFormerAgents({ processes, log }, former, new Set(nodes().map(({ name }) => name)));
      await removeFormerNodes({ processes, log }, former, nodes(), agents);
    }
    await instance.write();
    control = startControlPlane(options, parts, join(logs, "control-plane.log"));
    started = true;
    await Promise.all([agents.reconcile(nodes()), waypoints.reconcile(desiredWaypoints.all)]);
    await Promise.all([
      sourcing,
      announce(options, agents, log, stop.signal),
      every(clock, logCheckMs, () => boundLogs(logs), {
        signal: stop.signal,
        onError: (error) => log.warn("logs not bounded", { error: messageOf(error) }),
      }),
      options.logs ? followLogs(stateDir, stop.signal) : undefined,
    ]);
  } finally {
    stop.abort();
    signal.removeEventListener("abort", onAbort);
    log.info("standalone stopping");
    await Promise.all([agents.end(), waypoints.end()]);
    await control?.stop();
    await files.remove(join(runDir, "nodes"));
    await files.remove(join(runDir, "waypoints"));
    await files.remove(controlPlane.runDir);
    await instance.remove();
    removeIfEmpty(runDir);
    log.info("standalone stopped");
  }
}

function startControlPlane(options: StandaloneOptions, parts: ChildParts, logFile: string): Child {
  const [program, script] = options.self;
  const args = [
    script,
    "control-plane",
    ...controlPlaneArguments({ ...options.controlPlane, logFormat: "json" }),
  ];
  return new Child(parts, {
    name: "control-plane",
    netns: undefined,
    stopTimeoutMs: controlPlaneStopMs,
    spawn: { command: program, args, env: { PATH: options.path }, stdoutFile: logFile, stderrFile: logFile },
  });
}

function followLogs(stateDir: string, signal: AbortSignal): Promise<void> {
  const print = (name: string, line: string): void => void process.stdout.write(`${name}: ${line}\n`);
  return printLogs(stateDir, { node: undefined, follow: true, tailLines: 0 }, print, systemClock, signal);
}

/** Tells once that everything serves. */
async function announce(
  options: StandaloneOptions,
  agents: NodeAgents,
  log: Logger,
  signal: AbortSignal,
): Promise<void> {
  const started = systemClock.monotonic();
  const sockets = [
    join(options.controlPlane.runDir, "control-admin.sock"),
    ...agents.names.map((name) => join(options.runDir, "nodes", name, "node-admin.sock")),
  ];
  const ready = await Promise.all(sockets.map((socket) => untilAnswers(socket, "/ready", signal)));
  if (ready.every(Boolean)) {
    log.info("mesh ready", {
      nodes: agents.names,
      after_ms: Math.round(systemClock.monotonic() - started),
      run_dir: options.runDir,
    });
  }
}

async function boundLogs(directory: string): Promise<void> {
  for (const name of readdirSync(directory))
    if (name.endsWith(".log")) await boundLog(join(directory, name), logBytes);
}

function removeIfEmpty(directory: string): void {
  try {
    rmdirSync(directory);
  } catch {
    // Somebody else's files are in it.
  }
}
