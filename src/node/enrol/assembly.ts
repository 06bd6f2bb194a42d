import { defaultEnrolmentRules } from "../../domain/enrolment.js";
import type { Clock } from "../../platform/clock.js";
import type { Files } from "../../platform/files.js";
import type { Logger } from "../../platform/logger.js";
import type { NativeAddon } from "../../platform/native.js";
import type { Random } from "../../platform/random.js";
import type { Captures } from "../capture/captures.js";
import { netlinkWatch } from "../capture/watch.js";
import { CapturedRecord } from "./captured.js";
import { DesiredPods } from "./desired.js";
import { NodePods } from "./node-pods.js";
import { Patrol } from "./patrol.js";
import { Claims, Pairing } from "./pairing.js";
import type { DataPlanes } from "./pod-enrolment.js";
import type { CaptureObserver } from "./pod-layers.js";
import { removeRecorded } from "./recovery.js";

export interface EnrolmentOptions {
  readonly node: string;
  readonly cluster: string;
  /** Where the record of captured namespaces lies: the run directory. */
  readonly recordPath: string;
  readonly verifyIntervalMs: number;
  readonly watchedIntervalMs: number;
  readonly captureGraceMs: number;
  readonly drainTimeoutMs: number;
}

export interface EnrolmentPlatform {
  readonly native: NativeAddon;
  readonly files: Files;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly dataPlanes: DataPlanes;
  readonly observer: CaptureObserver;
  readonly captures: Captures;
}

/** The node's pods over the real kernel. Reads what an earlier agent has captured. */
export async function assembleEnrolment(
  options: EnrolmentOptions,
  platform: EnrolmentPlatform,
): Promise<NodePods> {
  const { native, files, clock, random, log, dataPlanes, observer, captures } = platform;
  const captured = new CapturedRecord({
    read: async () => (await files.readIfPresent(options.recordPath))?.toString("utf8"),
    write: (text) => files.writeAtomic(options.recordPath, text),
    remove: () => files.remove(options.recordPath),
  });
  await captured.load();
  const claims = new Claims();
  const desired = new DesiredPods({
    node: options.node,
    cluster: options.cluster,
    rules: defaultEnrolmentRules,
  });
  return new NodePods(desired, claims, captured, {
    pairing: new Pairing(native, claims, hostInodes(native)),
    captures,
    dataPlanes,
    captured,
    observer,
    clock,
    random,
    log,
    watch: netlinkWatch(native, log),
    patrol: new Patrol({
      clock,
      log,
      glanceNetns: (places, expected) => native.glanceNetns(places, expected),
      programs: captures.programs,
      roundMs: options.verifyIntervalMs,
      closeLookMs: options.watchedIntervalMs,
    }),
    captureGraceMs: options.captureGraceMs,
    drainTimeoutMs: options.drainTimeoutMs,
    removeRecorded: (key) => removeRecorded(key, captured, native, captures, log),
  });
}

/** The namespace of process 1, where it can be seen: on a cluster the host's. */
function hostInodes(native: NativeAddon): readonly number[] {
  try {
    const { fd, inode } = native.openNetns("/proc/1/ns/net");
    native.closeFd(fd);
    return [inode];
  } catch {
    return [];
  }
}
