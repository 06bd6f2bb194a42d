/** Processes that die, hang, or are away. */
import type { Fault, FaultWorld } from "./fault.js";

const agents = ["node-n1", "node-n2"] as const;
const dataPlanes = ["proxy-n1", "proxy-n2"] as const;

const kill = ({ lab }: FaultWorld, names: readonly string[]): void => {
  for (const name of names) lab.signal(name, "SIGKILL");
};

/** Others under these names. */
const replaced = ({ lab, before }: FaultWorld, names: readonly string[]): boolean => {
  const now = lab.processes();
  return names.every((name) => now.has(name) && now.get(name) !== before.get(name));
};

const killed = (name: string, names: readonly string[]): Fault => ({
  name,
  strike: (world) => kill(world, names),
  repaired: async (world) => replaced(world, names) && (await world.lab.isReady()),
});

/** The ends of processes that no redirection may outlive badly. */
export const kills: readonly Fault[] = [
  killed("SIGKILL of the agents", agents),
  killed("SIGKILL of the data planes", dataPlanes),
  killed("SIGKILL of agents and data planes at once", [...agents, ...dataPlanes]),
];

export const processes: readonly Fault[] = [
  ...kills,
  {
    name: "a data plane hangs without dying (SIGSTOP)",
    strike: ({ lab }) => lab.signal("proxy-n2", "SIGSTOP"),
    repaired: async (world) => replaced(world, ["proxy-n2"]) && (await world.lab.isReady()),
  },
  {
    name: "control plane away (SIGSTOP), data planes killed meanwhile",
    strike: (world) => {
      world.lab.signal("control-plane", "SIGSTOP");
      kill(world, dataPlanes);
    },
    repaired: async (world) => {
      const nodes = await world.lab.nodes();
      return (
        replaced(world, dataPlanes) && nodes.length === 2 && nodes.every(({ data_plane: { ready } }) => ready)
      );
    },
    mend: ({ lab }) => lab.signal("control-plane", "SIGCONT"),
  },
];
