import { messageOf } from "../../domain/error.js";
import type { Captures } from "../capture/captures.js";
import type { Logger } from "../../platform/logger.js";
import type { CapturedRecord } from "./captured.js";
import { netnsPaths, type NetnsAccess } from "./pairing.js";

/** Captures as far as recovery needs them. */
export type RecordedCaptures = Pick<Captures, "remove" | "forget">;

/**
 * Removes capture from a namespace that an earlier agent (or an earlier pairing) captured and that is not
 * open any more. A name that means another namespace now is left alone: the captured one is gone.
 */
export async function removeRecorded(
  key: string,
  captured: CapturedRecord,
  access: NetnsAccess,
  captures: RecordedCaptures,
  log: Logger,
): Promise<void> {
  const record = captured.get(key);
  if (record === undefined) return;
  for (const path of netnsPaths(record.netns)) {
    let fd: number | undefined;
    try {
      const opened = access.openNetns(path);
      fd = opened.fd;
      if (opened.inode !== record.inode) continue;
      await captures.remove(opened, record);
      await captured.delete(key);
      return;
    } catch (error) {
      if (fd !== undefined) {
        log.error("capture not removed", { pod: key, error: messageOf(error) });
        return;
      }
    } finally {
      if (fd !== undefined) access.closeFd(fd);
    }
  }
  // The number may be another pod's namespace by now, whose programs are its own.
  const recycled = captured.all.some((other) => other.key !== key && other.inode === record.inode);
  if (!recycled) await captures.forget(record);
  await captured.delete(key);
}
