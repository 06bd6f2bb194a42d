/** Where running instances are found: their run directory and the sockets in it (docs/node-interfaces.md). */
import { existsSync, readdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { z } from "zod";
import { MeltemiError } from "../domain/error.js";

/** `instance.json`: the standalone that owns a run directory, and its children. */
export const instanceShape = z.object({
  pid: z.int(),
  startTicks: z.int(),
  bootId: z.string(),
  startedAt: z.string(),
  version: z.string(),
  config: z.string(),
  stateDir: z.string(),
  runDir: z.string(),
  children: z.array(
    z.object({
      name: z.string(),
      pid: z.int(),
      startTicks: z.int(),
      bootId: z.string(),
      netns: z.string().optional(),
    }),
  ),
});

export type Instance = z.infer<typeof instanceShape>;

export interface NodeTarget {
  readonly name: string;
  readonly admin: string;
  readonly control: string;
}

/** The sockets of what runs: a control plane where there is one, and node agents. */
export interface Target {
  readonly runDir: string;
  readonly controlPlane: { readonly admin: string; readonly control: string } | undefined;
  readonly nodes: readonly NodeTarget[];
}

type Environment = Readonly<Record<string, string | undefined>>;

/** The directory to look in: the flag, MELTEMI_RUN_DIR, or the user's own default. */
export function defaultRunDir(environment: Environment, uid: number): string {
  if (environment["MELTEMI_RUN_DIR"]) return resolve(environment["MELTEMI_RUN_DIR"]);
  if (uid === 0) return "/run/meltemi";
  return join(environment["XDG_RUNTIME_DIR"] ?? `/tmp/meltemi-${uid}`, "meltemi");
}

/** Where keys, tokens and last good states are kept unless told otherwise. */
export function defaultStateDir(environment: Environment, uid: number): string {
  if (uid === 0) return "/var/lib/meltemi";
  return join(
    environment["XDG_STATE_HOME"] ?? join(environment["HOME"] ?? "/tmp", ".local/state"),
    "meltemi",
  );
}

const nodeTarget = (name: string, directory: string): NodeTarget => ({
  name,
  admin: join(directory, "node-admin.sock"),
  control: join(directory, "node-control.sock"),
});

/** The sockets below a run directory: a standalone's, a control plane's own or one node's own. Throws `unavailable` when there are none. */
export function findTarget(runDir: string): Target {
  const controlPlane = [join(runDir, "control-plane"), runDir].find((directory) =>
    existsSync(join(directory, "control-admin.sock")),
  );
  const nodesDir = join(runDir, "nodes");
  const nodes = existsSync(nodesDir)
    ? readdirSync(nodesDir)
        .sort()
        .map((name) => nodeTarget(name, join(nodesDir, name)))
        .filter(({ admin }) => existsSync(admin))
    : [];
  if (existsSync(join(runDir, "node-admin.sock"))) nodes.push(nodeTarget("", runDir));
  if (controlPlane === undefined && nodes.length === 0) {
    throw new MeltemiError("unavailable", `no Meltemi runs in ${runDir}`, {
      hint: "start one with: meltemi standalone --config DIR; or name its directory with --run-dir (or MELTEMI_RUN_DIR)",
    });
  }
  return {
    runDir,
    controlPlane:
      controlPlane === undefined
        ? undefined
        : {
            admin: join(controlPlane, "control-admin.sock"),
            control: join(controlPlane, "control-control.sock"),
          },
    nodes,
  };
}
