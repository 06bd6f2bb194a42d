import { messageOf } from "../../domain/error.js";
import type { Clock } from "../../platform/clock.js";
import type { Logger } from "../../platform/logger.js";
import type { NativeAddon } from "../../platform/native.js";
import type { Random } from "../../platform/random.js";
import { ContainerRuntime } from "./runtime.js";
import { SandboxSearch, type SearchedPods } from "./sandbox-search.js";

export interface CriPart {
  /** Before the source's first state. */
  load(signal: AbortSignal): Promise<void>;
  run(signal: AbortSignal): Promise<void>;
  close(): void;
}

/** The search for sandboxes over the node's own runtime and kernel. */
export function assembleCri(
  socket: string,
  platform: {
    readonly native: NativeAddon;
    readonly clock: Clock;
    readonly random: Random;
    readonly log: Logger;
  },
  pods: SearchedPods,
): CriPart {
  const { native, clock, random, log } = platform;
  const runtime = new ContainerRuntime(socket);
  const search = new SandboxSearch({
    sandboxes: () => runtime.sandboxes(),
    pods,
    inodeAt: (netns) => {
      try {
        const { fd, inode } = native.openNetns(netns);
        native.closeFd(fd);
        return inode;
      } catch (error) {
        log.debug("sandbox's namespace not opened", { netns, error: messageOf(error) });
        return undefined;
      }
    },
    clock,
    random,
    log,
  });
  return {
    load: (signal) => search.load(signal),
    run: (signal) => search.run(signal),
    close: () => runtime.close(),
  };
}
