import { messageOf } from "../../domain/error.js";
import type { Logger } from "../../platform/logger.js";
import type { NativeAddon } from "../../platform/native.js";
import type { Netns } from "./mode.js";

/** Hints that something in a namespace has changed (the addon's `NetnsWatch`). */
export interface ChangeWatch {
  /** `true` when something has changed since the last call, `false` once closed. */
  next(): Promise<boolean>;
  close(): void;
}

export type OpenWatch = (netns: Netns) => Promise<ChangeWatch | undefined>;

/** Watches over netlink. Where that cannot be had, verification goes by its interval alone. */
export function netlinkWatch(native: Pick<NativeAddon, "NetnsWatch">, log: Logger): OpenWatch {
  return async (netns) => {
    try {
      return await native.NetnsWatch.open(netns.fd);
    } catch (error) {
      log.warn("namespace not watched", { inode: netns.inode, error: messageOf(error) });
      return undefined;
    }
  };
}
