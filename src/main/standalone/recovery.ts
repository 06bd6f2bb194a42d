/**
 * What a former instance left when it was killed. Its control plane is ended and started anew. An
 * agent whose node is still wanted is ended without its clean-up, so that its data plane and the
 * capture stay and the new agent takes them over: traffic goes on. Others are ended in order,
 * and remove every trace themselves.
 */
import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import type { Instance } from "../../cli/run-directory.js";
import type { Logger } from "../../platform/logger.js";
import type { Processes } from "../../platform/process.js";
import { agentPaths } from "../../node/agent-options.js";
import { pidFile } from "../../node/supervise/pid-file.js";
import { systemFiles } from "../../platform/files.js";
import type { DesiredNode } from "./desired-nodes.js";
import type { NodeAgents } from "./node-agents.js";
import { nodeRunDir } from "./node-directory.js";
import { untilAnswers } from "./until-answers.js";

export interface RecoveryParts {
  readonly processes: Processes;
  readonly log: Logger;
}

const nodePrefix = "node-";
const controlPlaneStopMs = 3_000;
const agentStopMs = 25_000;

/** Ends the former control plane: its port and sockets are needed. */
export async function endFormerControlPlane(parts: RecoveryParts, former: Instance): Promise<void> {
  for (const child of former.children.filter(({ name }) => !name.startsWith(nodePrefix))) {
    const found = await parts.processes.adopt(child);
    if (found === undefined) continue;
    parts.log.info("ending a process of a former instance", { name: child.name, pid: child.pid });
    await found.stop(controlPlaneStopMs);
    found.release();
  }
}

/** Ends the former agents, each in the way that fits whether its node is still wanted. */
export async function endFormerAgents(
  parts: RecoveryParts,
  former: Instance,
  wanted: ReadonlySet<string>,
): Promise<void> {
  await Promise.all(
    former.children
      .filter(({ name }) => name.startsWith(nodePrefix))
      .map(async (child) => {
        const found = await parts.processes.adopt(child);
        if (found === undefined) return;
        const stays = wanted.has(child.name.slice(nodePrefix.length));
        parts.log.info("ending a process of a former instance", {
          name: child.name,
          pid: child.pid,
          data_plane_stays: stays,
        });
        if (stays) {
          found.signal("SIGKILL");
          await found.exited;
        } else await found.stop(agentStopMs);
        found.release();
      }),
  );
}

/** How long an agent that is started only to clean up may take until it knows what there is. */
const cleanUpStartMs = 10_000;
const dataPlaneStopMs = 5_000;

/**
 * Nodes that a former instance had and nobody wants now: an agent is started for each, and ended, for
 * it removes every trace. Where the node's namespace is gone there is no capture, only a data plane.
 */
export async function removeFormerNodes(
  parts: RecoveryParts,
  former: Instance,
  wanted: readonly DesiredNode[],
  agents: NodeAgents,
): Promise<void> {
  const left = former.children
    .filter(({ name }) => name.startsWith(nodePrefix))
    .map(({ name, netns }) => ({ name: name.slice(nodePrefix.length), netns }))
    .filter(({ name }) => !wanted.some((node) => node.name === name));
  if (left.length === 0) return;
  parts.log.info("removing what a former instance left", { nodes: left.map(({ name }) => name) });
  const reachable = left.filter(({ netns }) => netns === undefined || existsSync(netns));
  for (const node of left) if (!reachable.includes(node)) await endDataPlane(parts, former.runDir, node.name);
  await agents.reconcile(reachable);
  const deadline = AbortSignal.timeout(cleanUpStartMs);
  await Promise.all(
    reachable.map(({ name }) =>
      untilAnswers(join(nodeRunDir(former.runDir, name), "node-admin.sock"), "/status", deadline),
    ),
  );
  await agents.reconcile([]);
}

/** Ends the data plane that a node's agent has noted. */
async function endDataPlane(parts: RecoveryParts, runDir: string, node: string): Promise<void> {
  const directory = nodeRunDir(runDir, node);
  const { pidFile: path } = agentPaths({ runDir: directory, stateDir: directory });
  const identity = await pidFile(systemFiles, path).read();
  const found = identity && (await parts.processes.adopt(identity));
  if (found) {
    await found.stop(dataPlaneStopMs);
    found.release();
  }
  await rm(directory, { recursive: true, force: true });
}
