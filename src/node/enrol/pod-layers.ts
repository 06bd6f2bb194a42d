import { messageOf } from "../../domain/error.js";
import type { Captures } from "../capture/captures.js";
import type { CapturedPod, GuardName, LayerCounts, ModeName, Netns, Unannounced } from "../capture/mode.js";
import { noOriginals } from "../capture/originals.js";
import type { Capture } from "../capture/pod-capture.js";
import type { Clock } from "../../platform/clock.js";
import type { Logger } from "../../platform/logger.js";
import { pause } from "../pause.js";
import type { CapturedNamespace, CapturedRecord } from "./captured.js";
import type { EnrolledPod } from "./desired.js";
import type { Pairing } from "./pairing.js";

/** What happens in captured namespaces, for the metrics. */
export interface CaptureObserver {
  repaired(pod: EnrolledPod, broken: readonly string[]): void;
  counted(pod: EnrolledPod, counts: LayerCounts): void;
  forget(pod: EnrolledPod): void;
}

/** The node's captures, as far as one pod needs them. */
export type PodCaptures = Pick<Captures, "of" | "replace">;

export interface PodLayersParts {
  readonly captures: PodCaptures;
  readonly captured: CapturedRecord;
  readonly pairing: Pairing;
  readonly observer: CaptureObserver;
  readonly clock: Clock;
  readonly log: Logger;
  /** Removes capture by record where the namespace is not open any more (recovery.ts). */
  readonly removeRecorded: (key: string) => Promise<void>;
}

const drainPollMs = 100;

/** The capture of one pod's namespace, in the order of enrolment: prepared, applied, watched, drained, removed. */
export class PodLayers {
  #capture: Capture | undefined;
  #looking: Promise<unknown> = Promise.resolve();

  constructor(private readonly parts: PodLayersParts) {}

  /** What the pod is captured with, or would be. */
  describe(netns: Netns | undefined): { readonly mode: ModeName; readonly guard: GuardName } {
    const capture = this.#capture ?? this.parts.captures.of(undefined);
    const { guardKind } = capture;
    return { mode: capture.mode, guard: netns === undefined ? guardKind : capture.guardOf(netns) };
  }

  /**
   * The guard in force, and all that the data plane looks for: before it is told of the pod. What is changed is
   * noted first, for an agent that comes after this one.
   */
  async prepare(pod: EnrolledPod, netns: Netns): Promise<void> {
    const { captures, captured, log, removeRecorded } = this.parts;
    const noted = captured.get(pod.key);
    const known = noted?.inode === netns.inode ? noted : undefined;
    if (noted !== undefined && known === undefined) await removeRecorded(pod.key);
    const capture = captures.of(known);
    const { mode, guardKind } = capture;
    const same = known?.mode === mode;
    const originals = same ? known.originals : await capture.originals(netns);
    for (const problem of pod.capture.problems)
      log.warn("capture setting not understood", { pod: pod.key, problem });
    await this.#note({
      key: pod.key,
      netns: pod.netns ?? "",
      inode: netns.inode,
      mode,
      guard: guardKind,
      originals,
    });
    this.#capture = capture;
    await capture.prepare(await this.#captured(pod, netns), known === undefined);
    if (known !== undefined) await captures.replace(netns, known, capture);
  }

  async apply(pod: EnrolledPod, netns: Netns): Promise<void> {
    await this.#capture?.apply(await this.#captured(pod, netns));
  }

  /** What of the capture netlink does not tell of. */
  unannounced(netns: Netns): Unannounced {
    return this.#capture?.unannounced(netns) ?? {};
  }

  /** Puts right what is not as applied, and says so; or, where the settings are new, makes it as they say. */
  async verify(pod: EnrolledPod, netns: Netns, changed: boolean): Promise<void> {
    const { observer, log } = this.parts;
    const capture = this.#capture;
    if (capture === undefined) return;
    const broken = await this.#alone(async () => {
      const layers = await this.#captured(pod, netns);
      const state = await capture.verify(layers);
      observer.counted(pod, state.counts);
      if (state.broken.length > 0) await capture.repair(layers);
      return state.broken;
    });
    if (changed) log.info("capture settings changed", { pod: pod.key, ...pod.capture.settings });
    if (broken.length === 0 || changed) return;
    observer.repaired(pod, broken);
    log.warn("capture repaired", { pod: pod.key, broken });
  }

  /** Tells the observer what has been counted up to now. */
  async readCounts(pod: EnrolledPod, netns: Netns): Promise<void> {
    const { observer, log } = this.parts;
    const capture = this.#capture;
    if (capture === undefined) return;
    await this.#alone(async () => observer.counted(pod, await capture.counts(netns))).catch(
      (error: unknown) => {
        log.debug("counters not read", { pod: pod.key, error: messageOf(error) });
      },
    );
  }

  /** New connections go directly, carried ones go on. */
  async drain(pod: EnrolledPod, netns: Netns): Promise<void> {
    const capture = this.#present(pod);
    await this.#alone(async () => capture.drain(await this.#captured(pod, netns)));
  }

  /** Resolves when the data plane carries nothing more, at the deadline, or when nobody waits for it any more. */
  async drained(pod: EnrolledPod, netns: Netns, timeoutMs: number, hurry: () => boolean): Promise<void> {
    const { clock } = this.parts;
    const deadlineMs = clock.now() + timeoutMs;
    const never = new AbortController().signal;
    const capture = this.#present(pod);
    const carried = async (): Promise<number> => capture.carriedConnections(await this.#captured(pod, netns));
    while (!hurry() && clock.now() < deadlineMs && (await carried()) > 0)
      await pause(clock, drainPollMs, never);
  }

  /** Leaves the namespace as it was, and nothing to note. */
  async remove(pod: EnrolledPod, netns: Netns): Promise<void> {
    const { captured } = this.parts;
    await this.#present(pod).remove(netns, captured.get(pod.key)?.originals ?? noOriginals);
    await captured.delete(pod.key);
    this.#capture = undefined;
  }

  /** Of a pod that was not prepared by this agent: what an earlier one noted. */
  #present(pod: EnrolledPod): Capture {
    return this.#capture ?? this.parts.captures.of(this.parts.captured.get(pod.key));
  }

  async #captured(pod: EnrolledPod, netns: Netns): Promise<CapturedPod> {
    const addresses = await this.parts.pairing.addresses(netns, pod);
    return { netns, settings: { ...pod.capture.settings, addresses } };
  }

  /** Without the note an agent after a crash may leave rules behind; without the rules the pod sends in the clear. */
  async #note(entry: CapturedNamespace): Promise<void> {
    try {
      await this.parts.captured.set(entry);
    } catch (error) {
      this.parts.log.error("captured namespace not recorded", { pod: entry.key, error: messageOf(error) });
    }
  }

  /** One look at the kernel's counters after the other: they begin anew with the rules, and an older reading would pass for that. */
  #alone<T>(look: () => Promise<T>): Promise<T> {
    const turn = this.#looking.then(look);
    this.#looking = turn.catch(() => undefined);
    return turn;
  }
}
