/**
 * What a former instance left when it was killed. Its control plane is ended and started anew. An
 * agent whose node is still wanted is ended without its clean-up, so that its data plane and the
 * capture stay and the new agent takes them over: traffic goes on. Others are ended in order,
 * and remove every trace themselves.
 */
import { join } from "node:path";
import type { Instance } from "../../cli/run-directory.js";
import type { Logger } from "../../platform/logger.js";
import type { Processes } from "../../platform/process.js";

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

/** Nodes that a former instance had, by its notes, with the namespace each ran in. */
export function formerNodes(former: Instance): ReadonlyMap<string, string | undefined> {
  return new Map(
    former.children
      .filter(({ name }) => name.startsWith(nodePrefix))
      .map(({ name, netns }) => [name.slice(nodePrefix.length), netns] as const),
  );
}

export const nodeRunDir = (runDir: string, node: string): string => join(runDir, "nodes", node);
