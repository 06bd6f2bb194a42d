/** `log-level`: reads or sets how talkative the processes are. */
import { z } from "zod";
import { messageOf } from "../domain/error.js";
import { ask, tell } from "./ask.js";
import type { Target } from "./run-directory.js";
import type { View } from "./view.js";

const levelShape = z.looseObject({ level: z.string() });

export interface LogLevelScope {
  readonly node: string | undefined;
  /** The control plane alone, the agents, the data planes, or all. */
  readonly component: "control-plane" | "agent" | "proxy" | "all";
}

interface Place {
  readonly name: string;
  readonly read: { readonly socket: string; readonly path: string };
  readonly write: { readonly socket: string; readonly path: string };
}

function places(target: Target, { node, component }: LogLevelScope): Place[] {
  const found: Place[] = [];
  const wanted = (one: LogLevelScope["component"]): boolean => component === "all" || component === one;
  if (target.controlPlane && node === undefined && wanted("control-plane")) {
    const { admin, control } = target.controlPlane;
    found.push({
      name: "control-plane",
      read: { socket: admin, path: "/logging" },
      write: { socket: control, path: "/logging" },
    });
  }
  for (const one of target.nodes.filter(({ name }) => node === undefined || name === node)) {
    for (const [kind, prefix] of [
      ["agent", ""],
      ["proxy", "/proxy"],
    ] as const) {
      if (!wanted(kind)) continue;
      const path = `${prefix}/logging`;
      found.push({
        name: `${kind} ${one.name}`,
        read: { socket: one.admin, path },
        write: { socket: one.control, path },
      });
    }
  }
  return found;
}

export async function logLevelView(
  target: Target,
  scope: LogLevelScope,
  level: string | undefined,
): Promise<View> {
  const notes: string[] = [];
  const rows: { process: string; level: string }[] = [];
  for (const { name, read, write } of places(target, scope)) {
    try {
      const answer =
        level === undefined
          ? await ask(read.socket, read.path, levelShape)
          : await tell(write.socket, write.path, { level }, levelShape);
      rows.push({ process: name, level: answer.level });
    } catch (error) {
      notes.push(`${name}: ${messageOf(error)}`);
    }
  }
  return {
    data: rows,
    sections: [
      {
        columns: [{ heading: "process" }, { heading: "level" }],
        rows: rows.map(({ process, level: now }) => [process, now]),
        empty: "No process answers.",
      },
    ],
    notes,
  };
}
