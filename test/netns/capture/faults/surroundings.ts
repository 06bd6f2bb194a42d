/** The machine around the mesh: its disk. */
import { run } from "../../../../demo/lab/command.js";
import type { Fault } from "./fault.js";

const killed = ["node-n1", "node-n2", "proxy-n1", "proxy-n2"];
const fillingOf = (state: string): string => `${state}/filling`;

export const surroundings: readonly Fault[] = [
  {
    name: "the disk full, agents and data planes killed meanwhile",
    strike: async ({ lab }) => {
      await run("sh", ["-c", `dd if=/dev/zero of=${fillingOf(lab.state)} bs=64k 2>/dev/null || true`]);
      for (const name of killed) lab.signal(name, "SIGKILL");
    },
    repaired: async ({ lab, before }) => {
      const now = lab.processes();
      const other = killed.every((name) => now.get(name) !== before.get(name));
      return other && (await lab.isReady());
    },
    mend: async ({ lab }) => {
      await run("rm", [fillingOf(lab.state)]);
    },
  },
];
