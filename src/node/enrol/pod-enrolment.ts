import { MeltemiError, messageOf } from "../../domain/error.js";
import type { GuardName, ModeName, Netns } from "../capture/mode.js";
import type { ChangeWatch, OpenWatch } from "../capture/watch.js";
import type { Clock } from "../../platform/clock.js";
import type { Logger } from "../../platform/logger.js";
import { backoffMs, type Random } from "../../platform/random.js";
import { pause } from "../pause.js";
import type { CapturedRecord } from "./captured.js";
import { EventSlot } from "./event-slot.js";
import { sameOptOuts, samePod, type EnrolledPod } from "./desired.js";
import type { PairedNetns, Pairing } from "./pairing.js";
import type { Patrol } from "./patrol.js";
import { PodLayers, type CaptureObserver, type PodCaptures } from "./pod-layers.js";
import type { PodState } from "./pod-state.js";

/** The data planes, as an enrolment sees them (zds/server.ts). */
export interface DataPlanes {
  serve(
    pod: { uid: string; info: { name: string; namespace: string; serviceAccount: string }; netnsFd: number },
    signal: AbortSignal,
  ): Promise<void>;
  failure(uid: string, signal: AbortSignal): Promise<string | undefined>;
  withdraw(uid: string): Promise<void>;
  /** For how long no data plane has been connected, in milliseconds; 0 while there is one. */
  readonly awayMs: number;
}

export interface EnrolmentDependencies {
  readonly pairing: Pairing;
  readonly captures: PodCaptures;
  readonly dataPlanes: DataPlanes;
  readonly captured: CapturedRecord;
  readonly observer: CaptureObserver;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly watch: OpenWatch;
  /** Passes by serving pods every few seconds, for what netlink does not tell of. */
  readonly patrol: Pick<Patrol, "join">;
  /** How long a data plane may be away, or take to acknowledge a pod, before the pod is captured without it. */
  readonly captureGraceMs: number;
  /** How long carried connections may go on after a pod has left. */
  readonly drainTimeoutMs: number;
  /** Removes capture by record where the namespace is not open any more (recovery.ts). */
  readonly removeRecorded: (key: string) => Promise<void>;
}

type GuardEvent =
  | { readonly type: "look" }
  | { readonly type: "refused"; readonly refusal: string }
  | { readonly type: "wanted_differently" };

/** Until the watch is closed. One that fails is as good as none: the interval remains. */
async function follow(changes: ChangeWatch | undefined, onChange: () => void): Promise<void> {
  try {
    while (await changes?.next()) onChange();
  } catch {
    changes?.close();
  }
}

const firstRetryMs = 250;
const lastRetryMs = 15_000;
/** A namespace that does not exist yet is looked for often: until it is found its pod is not captured. */
const lastSearchMs = 1_000;

/** One pod's enrolment: owns its namespace's descriptor and its place in the state machine of pod-state.ts. */
export class PodEnrolment {
  #current: PodState = { phase: "pairing" };
  #wanted: EnrolledPod | undefined;
  #pod: EnrolledPod;
  #netns: Netns | undefined;
  #attempts = 0;
  #abandoned = false;
  /** The pod's sandbox has been taken down: nothing of it is left to drain. */
  #gone = false;
  readonly #layers: PodLayers;
  /** Tells the watch over a serving pod that its settings are new. */
  #onSettings: () => void = () => undefined;
  /** Aborted and replaced whenever `#wanted` changes: ends every wait. */
  #poke = new AbortController();
  #firstAttempt: (() => void) | undefined;
  /** Settles when the pod has been paired for the first time, or that has failed. */
  readonly firstAttempt: Promise<void>;

  constructor(
    pod: EnrolledPod,
    private readonly dependencies: EnrolmentDependencies,
    private readonly onState: () => void = () => undefined,
  ) {
    this.#wanted = pod;
    this.#pod = pod;
    this.#layers = new PodLayers(dependencies);
    this.firstAttempt = new Promise((resolve) => {
      this.#firstAttempt = resolve;
    });
  }

  get pod(): EnrolledPod {
    return this.#pod;
  }

  get state(): PodState {
    return this.#current;
  }

  get #state(): PodState {
    return this.#current;
  }

  set #state(state: PodState) {
    this.#current = state;
    this.onState();
  }

  /** What the pod is captured with, or would be. */
  get capture(): { readonly mode: ModeName; readonly guard: GuardName } {
    return this.#layers.describe(this.#netns);
  }

  /** Takes a new reading of the pod; undefined: it is to leave. */
  want(pod: EnrolledPod | undefined): void {
    if (pod !== undefined && this.#wanted !== undefined && samePod(pod, this.#wanted)) {
      if (sameOptOuts(pod.capture, this.#wanted.capture)) return;
      this.#wanted = pod;
      this.#pod = pod;
      this.#onSettings();
      return;
    }
    this.#wanted = pod;
    if (pod !== undefined) this.#gone = false;
    this.#attempts = 0;
    this.#poke.abort();
  }

  /** The pod's processes have ended and its namespace is going: it leaves without waiting for anything. */
  gone(): void {
    this.#gone = true;
    this.want(undefined);
  }

  /** Ends the enrolment with everything left in place, for an agent that comes after this one. */
  abandon(): void {
    this.#abandoned = true;
    this.#poke.abort();
  }

  /** Runs until the pod has left, or is abandoned. */
  async run(): Promise<void> {
    for (;;) {
      this.#poke = new AbortController();
      if (this.#abandoned) {
        this.#letGo();
        return;
      }
      const wanted = this.#wanted;
      if (wanted === undefined) break;
      if (wanted.netns !== this.#pod.netns) await this.#leave();
      this.#pod = wanted;
      try {
        await this.#enrol(wanted, this.#poke.signal);
      } catch (error) {
        await this.#fail(error, this.#poke.signal);
      }
    }
    await this.#leave();
  }

  /** Resolves when the pod is wanted differently; rejects when a step or a check fails. */
  async #enrol(pod: EnrolledPod, signal: AbortSignal): Promise<void> {
    const { pairing, dataPlanes } = this.dependencies;
    this.#state = { phase: "pairing" };
    const netns = await pairing.pair(pod);
    this.#netns = netns;
    // From here nothing leaks, and the data plane finds what it looks for.
    await this.#layers.prepare(this.#pod, netns);
    this.#state = { phase: "announcing" };
    if (signal.aborted) return this.#pause();
    const { name, namespace, serviceAccount } = pod;
    // Ends with the attempt, and with the wish for it.
    const attempt = new AbortController();
    const end = (): void => attempt.abort();
    signal.addEventListener("abort", end);
    const served = dataPlanes.serve(
      { uid: pod.workloadUid, info: { name, namespace, serviceAccount }, netnsFd: netns.fd },
      attempt.signal,
    );
    this.#firstAttempt?.();
    try {
      await this.#hold(pod, netns, served, attempt.signal);
    } finally {
      signal.removeEventListener("abort", end);
      end();
    }
    await this.#pause();
  }

  /** Captures the pod once it is served, or once it may no longer wait for that, and watches over it. */
  async #hold(
    pod: EnrolledPod,
    netns: PairedNetns,
    served: Promise<void>,
    signal: AbortSignal,
  ): Promise<void> {
    const { clock, log } = this.dependencies;
    const acknowledged = await this.#withinGrace(served, signal);
    if (signal.aborted) return;
    this.#state = { phase: "capturing" };
    await this.#layers.apply(this.#pod, netns);
    const fields = { pod: pod.key, netns: pod.netns, inode: netns.inode, ...this.capture };
    const enrolled = (): void => {
      this.#state = { phase: "serving", sinceMs: clock.now() };
      this.#attempts = 0;
      log.info("pod enrolled", fields);
    };
    if (acknowledged) enrolled();
    else {
      this.#state = { phase: "refusing" };
      log.warn("pod captured without a data plane", fields);
      // What it rejects with, the guard hears as the data plane's failure.
      served.then(
        () => {
          if (!signal.aborted && this.#state.phase === "refusing") enrolled();
        },
        () => undefined,
      );
    }
    await this.#guard(pod, netns, signal);
  }

  /** True when the data planes have acknowledged the pod, false when the grace is over. Rejects with their refusal. */
  async #withinGrace(served: Promise<void>, signal: AbortSignal): Promise<boolean> {
    const { clock, dataPlanes, captureGraceMs } = this.dependencies;
    const over = new AbortController();
    const grace = pause(
      clock,
      Math.max(0, captureGraceMs - dataPlanes.awayMs),
      AbortSignal.any([signal, over.signal]),
    );
    try {
      return await Promise.race([served.then(() => true), grace.then(() => false)]);
    } finally {
      over.abort();
    }
  }

  /** Watches over a serving pod. Resolves when it is wanted differently; rejects when it may not be served on. */
  async #guard(pod: EnrolledPod, netns: PairedNetns, signal: AbortSignal): Promise<void> {
    const { dataPlanes, pairing, patrol, watch } = this.dependencies;
    const events = new EventSlot<GuardEvent>();
    const stop = (): void => events.put({ type: "wanted_differently" }, true);
    signal.addEventListener("abort", stop);
    void dataPlanes.failure(pod.workloadUid, signal).then((refusal) => {
      if (refusal !== undefined) events.put({ type: "refused", refusal }, true);
    });
    const changes = await watch(netns);
    let watched = changes !== undefined;
    const look = (): void => events.put({ type: "look" });
    void follow(changes, look).then(() => (watched = false));
    let newSettings = false;
    this.#onSettings = () => {
      newSettings = true;
      look();
    };
    const { inode, path } = netns;
    const patrolled = patrol.join({
      inode,
      path,
      watched: () => watched,
      unannounced: () => this.#layers.unannounced(netns),
      look,
    });
    try {
      // What happened between capture and watch has told nobody: the first look is due at once.
      for (let event: GuardEvent = { type: "look" }; !signal.aborted; event = await events.take()) {
        if (event.type === "wanted_differently") return;
        if (event.type === "refused") {
          throw new MeltemiError("unavailable", `the data plane cannot serve the pod: ${event.refusal}`);
        }
        if (!this.#isPaired(pod, await pairing.verify(pod, netns))) continue;
        const settings = newSettings;
        newSettings = false;
        await this.#layers.verify(this.#pod, netns, settings);
        patrolled.looked();
      }
    } finally {
      this.#onSettings = () => undefined;
      patrolled.leave();
      changes?.close();
      signal.removeEventListener("abort", stop);
    }
  }

  /** False where the kernel could not be asked: then its capture cannot be looked at either, and stays as it is. */
  #isPaired(pod: EnrolledPod, result: Awaited<ReturnType<Pairing["verify"]>>): boolean {
    if (result === "same") return true;
    if (result === "not_verified") {
      this.dependencies.log.warn("pairing not verified", { pod: pod.key });
      return false;
    }
    throw new MeltemiError(
      "conflict",
      result === "other_namespace"
        ? `network namespace "${pod.netns ?? ""}" is gone, or the name means another one now`
        : `the pod's address ${pod.ips.join(", ")} is no longer in network namespace "${pod.netns ?? ""}"`,
      { hint: "the pod is paired anew as soon as namespace and address belong together" },
    );
  }

  /** Tells the observer what has been dropped up to now. */
  async readDrops(): Promise<void> {
    const netns = this.#netns;
    const { phase } = this.#state;
    if (netns !== undefined && (phase === "serving" || phase === "refusing"))
      await this.#layers.readCounts(this.#pod, netns);
  }

  /** Stops serving the pod and lets go of its namespace, with its capture left in force: nothing passes in the clear meanwhile. */
  async #pause(): Promise<void> {
    const netns = this.#netns;
    if (netns === undefined || this.#keepsPairing()) return;
    this.#netns = undefined;
    await this.dependencies.dataPlanes.withdraw(this.#pod.workloadUid);
    this.dependencies.pairing.release(this.#pod, netns);
  }

  /** The namespace's descriptor given back, and nothing else: data plane and capture stay as they are. */
  #letGo(): void {
    this.#firstAttempt?.();
    if (this.#netns !== undefined) this.dependencies.pairing.release(this.#pod, this.#netns);
    this.#netns = undefined;
  }

  /** A pod that leaves needs its namespace once more, to remove capture from it. */
  #keepsPairing(): boolean {
    return this.#abandoned || this.#wanted === undefined || this.#wanted.netns !== this.#pod.netns;
  }

  async #fail(error: unknown, signal: AbortSignal): Promise<void> {
    const { clock, log, random } = this.dependencies;
    if (signal.aborted) return this.#pause();
    const searching = error instanceof MeltemiError && error.code === "not_found";
    const longestMs = searching ? lastSearchMs : lastRetryMs;
    const delayMs = Math.round(backoffMs(random, this.#attempts, firstRetryMs, longestMs));
    this.#attempts += 1;
    const hint = error instanceof MeltemiError ? error.hint : undefined;
    const reason = messageOf(error);
    this.#state = {
      phase: "failed",
      reason,
      hint,
      attempts: this.#attempts,
      retryAtMs: clock.now() + delayMs,
    };
    if (this.#attempts === 1) log.error("pod not enrolled", { pod: this.#pod.key, reason, hint });
    this.#firstAttempt?.();
    await this.#pause();
    await pause(clock, delayMs, signal);
  }

  /** Capture first (new connections go directly), then the data plane, then what is left once carried connections have ended. */
  async #leave(): Promise<void> {
    const { captured, dataPlanes, pairing, observer, log, removeRecorded, drainTimeoutMs } =
      this.dependencies;
    const pod = this.#pod;
    const netns = this.#netns;
    this.#netns = undefined;
    this.#state = { phase: "leaving" };
    this.#firstAttempt?.();
    if (netns === undefined) {
      if (captured.get(pod.key) !== undefined) await removeRecorded(pod.key);
    } else {
      try {
        const wasCaptured = captured.get(pod.key) !== undefined;
        if (wasCaptured) await this.#layers.drain(pod, netns);
        await dataPlanes.withdraw(pod.workloadUid);
        if (wasCaptured) {
          await this.#layers.drained(pod, netns, drainTimeoutMs, () => this.#gone);
          await this.#layers.remove(pod, netns);
        }
      } catch (error) {
        // The record stays: the next start, or the next pod there, finds it.
        log.error("capture not removed", { pod: pod.key, error: messageOf(error) });
        await dataPlanes.withdraw(pod.workloadUid);
      } finally {
        pairing.release(pod, netns);
      }
    }
    observer.forget(pod);
    pairing.forget(pod);
    log.info("pod left the mesh", { pod: pod.key });
  }
}
