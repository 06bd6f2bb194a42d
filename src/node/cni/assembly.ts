import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { wishLabels } from "../../domain/enrolment.js";
import { MeltemiError, messageOf } from "../../domain/error.js";
import { every, type Clock } from "../../platform/clock.js";
import type { Files } from "../../platform/files.js";
import type { Logger } from "../../platform/logger.js";
import type { NativeAddon } from "../../platform/native.js";
import type { UnixListenOptions } from "../../platform/unix-accept.js";
import { serveUnixHttp } from "../../platform/unix-http-server.js";
import type { NodePods } from "../enrol/node-pods.js";
import { readApiAccess } from "./api-access.js";
import type { WhenUnknown } from "./chain.js";
import { cniHandler, type CniResult, type CniVerb } from "./handler.js";
import { Installation } from "./installation.js";
import { AskingList } from "./list.js";
import { Sandboxes } from "./sandboxes.js";

/** The agent's flags about CNI, where it serves the plugin at all. */
export interface CniOptions {
  readonly socket: string;
  readonly binDir: string | undefined;
  readonly confDir: string | undefined;
  readonly whenUnknown: WhenUnknown;
  /** A file that says how the plugin reaches the API; undefined: it does not. */
  readonly kubernetes: string | undefined;
}

export interface CniPlatform {
  readonly native: NativeAddon;
  readonly files: Files;
  readonly clock: Clock;
  readonly log: Logger;
  readonly pods: NodePods;
  readonly onAnswer: (verb: CniVerb, result: CniResult) => void;
}

/** The agent answers before the plugin gives up. */
export const cniTimes = {
  timeoutMs: 10_000,
  briefTimeoutMs: 250,
  knownWithinMs: 2_000,
  capturedWithinMs: 7_000,
  goneWithinMs: 5_000,
  pruneIntervalMs: 30_000,
} as const;

export interface CniPart {
  /** Reads what an earlier agent was told; before the source's first state. */
  load(): Promise<void>;
  /** Serves the plugin and keeps it installed, until the signal. */
  run(signal: AbortSignal): Promise<void>;
  /** After the last pod has left: takes the plugin out of the node's chain. */
  uninstall(): Promise<void>;
}

/** Everything of the agent that the CNI plugin needs. */
export function assembleCni(
  options: CniOptions,
  paths: { readonly sandboxes: string; readonly cniList: string },
  platform: CniPlatform,
  listen: Omit<UnixListenOptions, "signal" | "path">,
): CniPart {
  const { native, files, clock, log, pods } = platform;
  const sandboxes = new Sandboxes({
    file: {
      read: async () => (await files.readIfPresent(paths.sandboxes))?.toString("utf8"),
      write: (text) => files.writeAtomic(paths.sandboxes, text),
      remove: () => files.remove(paths.sandboxes),
    },
    placement: pods,
    exists: (netns, inode) => inodeAt(native, netns) === inode,
    log,
  });
  const list = new AskingList(paths.cniList, () => pods.asking, files, clock, log);
  const { timeoutMs, briefTimeoutMs, ...waits } = cniTimes;
  const { socket, whenUnknown, binDir, confDir, kubernetes } = options;
  const installation =
    binDir === undefined && confDir === undefined
      ? undefined
      : new Installation(
          {
            binDir,
            confDir,
            program: pluginProgram(dirname(fileURLToPath(import.meta.url))),
            config: async () => ({
              socket,
              list: paths.cniList,
              timeoutMs,
              briefTimeoutMs,
              whenUnknown,
              ...(kubernetes !== undefined && {
                kubernetes: { ...(await readApiAccess(files, kubernetes)), wish: wishLabels },
              }),
            }),
          },
          files,
          clock,
          log,
        );
  const handler = cniHandler({ ...waits, pods, sandboxes, clock, log, onAnswer: platform.onAnswer });

  return {
    load: () => sandboxes.load(),
    run: async (signal) => {
      await files.makeDirectory(dirname(socket), 0o700);
      const ended = serveUnixHttp({
        ...listen,
        signal,
        path: socket,
        allow: ({ uid }) => uid === 0,
        handler,
        maxBodyBytes: 16 << 20,
      }).ended;
      const forget = pods.onChange(() => list.changed());
      list.changed();
      const pruning = every(
        clock,
        cniTimes.pruneIntervalMs,
        async () => {
          await sandboxes.prune();
        },
        {
          signal,
          background: true,
          onError: (error) => log.error("sandboxes not looked after", { error: messageOf(error) }),
        },
      );
      try {
        await Promise.all([ended, pruning, installation?.run(signal)]);
      } finally {
        forget();
        await list.flush();
      }
    },
    uninstall: async () => {
      await installation?.uninstall();
      await list.remove();
    },
  };
}

function inodeAt(native: NativeAddon, netns: string): number | undefined {
  try {
    const { fd, inode } = native.openNetns(netns);
    native.closeFd(fd);
    return inode;
  } catch (error) {
    // Want of descriptors or memory says nothing about the namespace: what is there stays.
    if (/\b(EMFILE|ENFILE|ENOMEM)\b/.test(messageOf(error))) throw error;
    return undefined;
  }
}

/** The plugin as built, beside the addon (scripts/setup.mjs). */
function pluginProgram(here: string): string {
  const file = "native/dist/meltemi-cni";
  const found = ["../../..", "../../../.."]
    .map((up) => join(here, up, file))
    .find((path) => existsSync(path));
  if (found !== undefined) return found;
  throw new MeltemiError("unavailable", `The CNI plugin (${file}) is not built.`, {
    hint: "Run: npm run setup",
  });
}
