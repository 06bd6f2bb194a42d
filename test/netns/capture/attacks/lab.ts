/** The mesh of the attackers' table, and how its defences are taken away and come back. */
import { eventually } from "../../../helpers/eventually.js";
import { detachLink, inForce, isLinked, removeRedirection, shape } from "../lab/kernel.js";
import { Lab } from "../lab/lab.js";
import { serve } from "../lab/world.js";
import { expect } from "vitest";
import type { Place } from "../cases/case.js";
import { attack, containerCapabilities } from "../lab/kit.js";
import type { Attack, Stands, Watched } from "./attack.js";

/** Whose captures are taken away. */
const captured = ["attacker", "server"] as const;

/**
 * @param prefix of its namespaces
 * @param flags of `meltemi standalone`
 */
export async function startAttackLab(prefix = "at", flags: readonly string[] = []): Promise<Lab> {
  const plans = [
    { name: "server", node: "n1", host: 10 },
    { name: "neighbour", node: "n1", host: 12, outside: true },
    { name: "attacker", node: "n2", host: 10 },
    { name: "client", node: "n2", host: 11 },
    { name: "squatter", node: "n2", host: 13, outside: true },
  ] as const;
  const lab = new Lab(prefix, plans, flags);
  return lab.begin(() => serve(lab, "server", "squatter", "neighbour"));
}

/** Waits for the links of the guards, which `disarm` takes away. */
export const linked = (lab: Lab): Promise<unknown> =>
  eventually(
    "the guards' links",
    async () => (await Promise.all(captured.map((name) => isLinked(lab.pod(name))))).every(Boolean),
    30_000,
  );

/** Stops the agents, so that nothing is repaired, and takes the defences away as the host's root could. */
export async function disarm(lab: Lab, stands: Stands): Promise<void> {
  for (const node of ["node-n1", "node-n2"]) lab.signal(node, "SIGSTOP");
  for (const name of captured) {
    const pod = lab.pod(name);
    for (const id of (await inForce(pod)).guardLinks) await detachLink(id);
    if (stands === "guard and redirection") await removeRedirection(pod);
  }
}

/** The agents go on; waits until everything is in force again as it was. */
export async function rearm(lab: Lab, before: ReadonlyMap<string, string>): Promise<void> {
  for (const node of ["node-n1", "node-n2"]) lab.signal(node, "SIGCONT");
  await eventually(
    "the defences to be back",
    async () => {
      const now = await defences(lab);
      return [...before].every(([pod, form]) => now.get(pod) === form);
    },
    40_000,
  );
}

/** The form of each pod's defences. */
export async function defences(lab: Lab): Promise<ReadonlyMap<string, string>> {
  const forms = captured.map(async (name) => [name, await shape(lab.pod(name))] as const);
  return new Map(await Promise.all(forms));
}

/** Tries one row, and gives what came through. */
export async function attempt(
  row: Attack,
  place: Place,
  marker: string,
): Promise<{ attempted: number; bytes: number }> {
  const { lab } = place;
  const [netns, device] = watchedDevice(lab, row.watched);
  const capture = await lab.capture(netns, device, row.marker?.(place) ?? marker);
  let attempted = 0;
  for (const tool of row.tools(place, marker)) {
    const report = await attack(lab.pod(row.from).netns, tool);
    expect(report.capabilities).toBe(containerCapabilities.effective);
    attempted += report.attempted;
  }
  const { drops, marker_bytes: bytes } = await capture.stop();
  expect(drops, "frames that the capture missed").toBe(0);
  return { attempted, bytes };
}

/** Where the capture for a row listens. */
function watchedDevice(lab: Lab, watched: Watched): readonly [string | undefined, string] {
  switch (watched.at) {
    case "wire":
      return [undefined, lab.node("n2").wire];
    case "entry":
      return [lab.pod(watched.pod).netns, "eth0"];
    case "application":
      return [lab.pod(watched.pod).netns, "lo"];
  }
}
