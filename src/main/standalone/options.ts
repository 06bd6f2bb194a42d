/** Standalone's flags: its control plane's, and where the data plane's program is. */
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import type { Command } from "commander";
import { MeltemiError } from "../../domain/error.js";
import { redirectModes, type RedirectMode } from "../../node/capture/support.js";
import { parseChoice } from "../flags.js";
import { redirectModeHelp } from "../redirect-mode.js";
import { addMeshFlags, readControlPlaneOptions, type ControlPlaneOptions } from "../control-plane/options.js";

export interface StandaloneOptions {
  /** The control plane's, with its own run directory below standalone's. */
  readonly controlPlane: ControlPlaneOptions;
  readonly runDir: string;
  readonly stateDir: string;
  readonly config: string;
  /** The data plane's program. */
  readonly proxy: string;
  /** Nodes whose data plane somebody else starts: it connects to the agent's sockets. */
  readonly externalDataPlanes: ReadonlySet<string>;
  readonly redirectMode: RedirectMode;
  /** False: no node uses BPF, though it could. */
  readonly bpf: boolean;
  /** Print the logs of all processes too. */
  readonly logs: boolean;
  /** How this program starts itself: the interpreter, and the script. */
  readonly self: readonly [string, string];
  readonly path: string;
}

type Flags = Readonly<Record<string, string | boolean | readonly string[] | undefined>>;

export function addStandaloneFlags(command: Command): Command {
  return addMeshFlags(command)
    .option("--proxy <path>", "the data plane's program (that of this build)")
    .option("--redirect-mode <mode>", redirectModeHelp, "auto")
    .option("--no-bpf", "use no BPF on any node: its guard is the weaker one then")
    .option("--external-data-plane <node...>", "do not start these nodes' data planes: others will connect")
    .option("--logs", "print the logs of all processes");
}

/** A Unix socket's path has at most 107 bytes; below the run directory comes this, and a node's name. */
const longestSocket = "/nodes//proxy-control.sock";
const longestSocketPath = 107;

/** From src/main/standalone, or from dist/src/main/standalone. */
function builtProxy(): string | undefined {
  return ["../../../target/release/meltemi-proxy", "../../../../target/release/meltemi-proxy"]
    .map((place) => fileURLToPath(new URL(place, import.meta.url)))
    .find((path) => existsSync(path));
}

/** Reads the flags. Throws `bad_input` or `not_found` naming the one that is wrong. */
export function readStandaloneOptions(flags: Flags, environment: NodeJS.ProcessEnv): StandaloneOptions {
  const texts = Object.fromEntries(
    Object.entries(flags).filter((entry): entry is [string, string] => typeof entry[1] === "string"),
  );
  const mesh = readControlPlaneOptions(texts, environment);
  const proxy = typeof flags["proxy"] === "string" ? resolve(flags["proxy"]) : builtProxy();
  if (proxy === undefined || !existsSync(proxy)) {
    throw new MeltemiError("not_found", `the data plane's program ${proxy ?? "meltemi-proxy"} is not there`, {
      hint: "build it (npm run setup), or name it with --proxy",
    });
  }
  const room = longestSocketPath - Buffer.byteLength(mesh.runDir) - longestSocket.length;
  if (room < 16) {
    throw new MeltemiError(
      "bad_input",
      `--run-dir ${mesh.runDir} is too long: the sockets below it would pass ${longestSocketPath} bytes`,
      {
        hint: "choose a shorter one",
      },
    );
  }
  return {
    controlPlane: { ...mesh, runDir: join(mesh.runDir, "control-plane") },
    runDir: mesh.runDir,
    stateDir: mesh.stateDir,
    config: mesh.config,
    proxy,
    externalDataPlanes: new Set(Array.isArray(flags["externalDataPlane"]) ? flags["externalDataPlane"] : []),
    redirectMode: parseChoice("--redirect-mode", texts["redirectMode"] ?? "auto", redirectModes),
    bpf: flags["bpf"] !== false,
    logs: flags["logs"] === true,
    self: [process.execPath, process.argv[1] ?? ""],
    path: environment["PATH"] ?? "/usr/sbin:/usr/bin:/sbin:/bin",
  };
}

/** The longest name of a node whose sockets have room below this run directory. */
export const longestNodeName = (runDir: string): number =>
  longestSocketPath - Buffer.byteLength(runDir) - longestSocket.length;
