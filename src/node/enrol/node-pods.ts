import { messageOf } from "../../domain/error.js";
import type { SourceBatch } from "../../domain/source-event.js";
import type { CapturedRecord } from "./captured.js";
import type { DesiredPods, OutPod } from "./desired.js";
import type { Claims } from "./pairing.js";
import { PodEnrolment, type EnrolmentDependencies } from "./pod-enrolment.js";
import { report, type PodState, type ReportedState } from "./pod-state.js";

/** A pod in /status. */
export interface PodStatus {
  readonly uid: string;
  readonly namespace: string;
  readonly name: string;
  readonly ip: string;
  readonly serviceAccount: string;
  readonly state: ReportedState;
  readonly reason?: string;
  readonly netns: string;
  readonly mode: string;
}

/** For how long a reading of the drop counters is good enough. */
const dropsFreshMs = 1_000;

/** The phases in which a data plane may need the pod's certificate. */
const announced: ReadonlySet<PodState["phase"]> = new Set(["announcing", "capturing", "refusing", "serving"]);

/** All pods of the node: starts an enrolment for each that is to be in, and ends it when it is to be out. */
export class NodePods {
  readonly #enrolments = new Map<string, PodEnrolment>();
  readonly #running = new Set<Promise<void>>();
  #out: ReadonlyMap<string, OutPod> = new Map();
  #dropsReadMs: number | undefined;
  #readingDrops: Promise<void> = Promise.resolve();
  #started = false;
  #stopping = false;
  #markStarted: (() => void) | undefined;
  /** Resolves when every pod of the first complete state has been paired or has failed to be, or when all are to leave. */
  readonly firstRound: Promise<void>;

  constructor(
    private readonly desired: DesiredPods,
    private readonly claims: Claims,
    private readonly captured: CapturedRecord,
    private readonly dependencies: EnrolmentDependencies,
  ) {
    this.firstRound = new Promise((resolve) => {
      this.#markStarted = resolve;
    });
  }

  take(batch: SourceBatch): void {
    const changed = this.desired.take(batch);
    if (changed || !this.#started) this.#reconcile();
  }

  #reconcile(): void {
    if (this.#stopping) return;
    const { enrolled, out } = this.desired.current();
    this.#takeOut(out);
    for (const [key, enrolment] of this.#enrolments) if (!enrolled.has(key)) enrolment.want(undefined);
    // Those that an earlier agent captured come first: of two claimants, the first keeps its place.
    const order = [...enrolled.values()].sort(
      (a, b) => Number(this.#recorded(b.key)) - Number(this.#recorded(a.key)),
    );
    const present = order.map((pod) => {
      const enrolment =
        this.#enrolments.get(pod.key) ?? this.#start(new PodEnrolment(pod, this.dependencies));
      enrolment.want(pod);
      return enrolment.firstAttempt;
    });
    if (this.#started) return;
    this.#started = true;
    const recordedOut = this.captured.all.filter(({ key }) => !enrolled.has(key));
    void Promise.all([
      ...present,
      ...recordedOut.map(({ key }) => this.dependencies.removeRecorded(key)),
    ]).then(() => this.#markStarted?.());
  }

  /** Has every pod leave the mesh; resolves when no trace is left. */
  async leaveAll(): Promise<void> {
    this.#stopping = true;
    for (const enrolment of this.#enrolments.values()) enrolment.want(undefined);
    await Promise.all(this.#running);
    this.#markStarted?.();
  }

  /** Ends all enrolments with everything left in place; resolves when nothing of them runs any more. */
  async abandonAll(): Promise<void> {
    this.#stopping = true;
    for (const enrolment of this.#enrolments.values()) enrolment.abandon();
    await Promise.all(this.#running);
    this.#markStarted?.();
  }

  /** Whether an identity belongs to a pod that is being served or about to be: only for these are certificates relayed. */
  hosts(namespace: string, serviceAccount: string): boolean {
    return [...this.#enrolments.values()].some(
      ({ pod, state }) =>
        pod.namespace === namespace && pod.serviceAccount === serviceAccount && announced.has(state.phase),
    );
  }

  /** Reads all pods' counters; called often (by who scrapes), it reads them once in a while. */
  readDrops(): Promise<void> {
    const { clock } = this.dependencies;
    if (this.#dropsReadMs === undefined || clock.monotonic() - this.#dropsReadMs >= dropsFreshMs) {
      this.#dropsReadMs = clock.monotonic();
      this.#readingDrops = this.#readDropsInTurn();
    }
    return this.#readingDrops;
  }

  async #readDropsInTurn(): Promise<void> {
    // Each reading is a program's run: not all at once.
    for (const enrolment of [...this.#enrolments.values()]) await enrolment.readDrops();
  }

  get status(): readonly PodStatus[] {
    const enrolled = [...this.#enrolments.values()].map(({ pod, state }) => ({
      ...row(pod),
      ...report(state),
      mode: this.dependencies.capture.name,
    }));
    const out = [...this.#out.values()].map((pod) => ({
      ...row(pod),
      state: "out" as const,
      reason: pod.reason,
      mode: "none",
    }));
    return [...enrolled, ...out].sort((a, b) => (a.uid < b.uid ? -1 : 1));
  }

  #recorded(key: string): boolean {
    return this.captured.get(key) !== undefined;
  }

  #start(enrolment: PodEnrolment): PodEnrolment {
    const { key } = enrolment.pod;
    this.#enrolments.set(key, enrolment);
    const running = enrolment.run().catch((error: unknown) => {
      this.dependencies.log.error("enrolment ended", { pod: key, error: messageOf(error) });
    });
    this.#running.add(running);
    void running.then(() => {
      this.#running.delete(running);
      if (this.#enrolments.get(key) === enrolment) this.#enrolments.delete(key);
      // The pod may have come back while it was leaving.
      this.#reconcile();
    });
    return enrolment;
  }

  #takeOut(out: ReadonlyMap<string, OutPod>): void {
    for (const key of this.#out.keys()) if (!out.has(key)) this.claims.releaseAll(key);
    for (const pod of out.values()) {
      if (!pod.holdsAddress || this.#enrolments.has(pod.key)) continue;
      for (const ip of pod.ips) this.#claim(pod, ip);
    }
    this.#out = out;
  }

  #claim(pod: OutPod, ip: string): void {
    try {
      this.claims.take("address", ip, pod.key);
    } catch (error) {
      this.dependencies.log.warn("two pods with one address", { pod: pod.key, reason: messageOf(error) });
    }
  }
}

function row(pod: Pick<OutPod, "workloadUid" | "namespace" | "name" | "ips" | "serviceAccount" | "netns">) {
  return {
    uid: pod.workloadUid,
    namespace: pod.namespace,
    name: pod.name,
    ip: pod.ips[0] ?? "",
    serviceAccount: pod.serviceAccount,
    netns: pod.netns ?? "",
  };
}
