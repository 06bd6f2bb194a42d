import { setTimeout as sleep } from "node:timers/promises";
import { MeltemiError } from "../../src/domain/error.js";
import type { Values } from "../report/raw.js";
import { cpuSeconds } from "../l4/processes.js";
import type { Crowd } from "./crowd.js";
import { cpuWithChildren, descriptors, type NodeAgent, residentKb } from "./node-agent.js";

export interface ManyPodsOptions {
  /** How long the agent's CPU at rest is observed. */
  readonly restSeconds: number;
  /** How long it may take until nothing of the enrolment echoes any more. */
  readonly settleSeconds: number;
}

/** Enrols a whole crowd at once and looks at what that costs the agent, in time, CPU, memory and descriptors. */
export async function enrolCrowd(
  agent: NodeAgent,
  crowd: Crowd,
  { restSeconds, settleSeconds }: ManyPodsOptions,
): Promise<Values> {
  const count = crowd.pods.length;
  await agent.emptied();
  const dataPlane = (await agent.status())?.data_plane.pid ?? 0;
  const look = (): { own: number; all: number; proxy: number } => ({
    own: cpuSeconds([agent.pid]),
    all: cpuWithChildren(agent.pid),
    proxy: cpuSeconds([dataPlane]),
  });
  const [fresh, freshFds, before] = [residentKb(agent.pid), descriptors(agent.pid), look()];
  const fromMs = performance.now();
  await agent.write("pods.yaml", crowd.manifests());
  const enrolledMs = (await agent.enrolled(count)) - fromMs;
  const after = look();
  await sleep(settleSeconds * 1000);
  const [restFrom, restFromMs] = [cpuWithChildren(agent.pid), performance.now()];
  await sleep(restSeconds * 1000);
  const restCores = (cpuWithChildren(agent.pid) - restFrom) / ((performance.now() - restFromMs) / 1000);
  if (((await agent.status())?.data_plane.pid ?? 0) !== dataPlane)
    throw new MeltemiError("internal", "the data plane was restarted while its pods were enrolled");
  return {
    many_pods: count,
    many_enrolled_s: enrolledMs / 1000,
    many_agent_cpu_s: after.own - before.own,
    many_programs_cpu_s: after.all - after.own - (before.all - before.own),
    many_proxy_cpu_s: after.proxy - before.proxy,
    many_agent_kb_per_pod: (residentKb(agent.pid) - fresh) / count,
    many_fds_per_pod: (descriptors(agent.pid) - freshFds) / count,
    many_rest_percent: restCores * 100,
  };
}
