import { messageOf } from "../../domain/error.js";
import type { SourceBatch } from "../../domain/source-event.js";
import type { CapturedRecord } from "./captured.js";
import type { Asking, DesiredPods, OutPod, Sandbox, Standing } from "./desired.js";
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
  /** How it is captured: the redirection, and what stops what came past it. */
  readonly mode: string;
  readonly guard: string;
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
  readonly #watchers = new Set<() => void>();
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
    this.#tell();
  }

  /** Takes what the runtime tells of a pod's sandbox; undefined: it has been taken down, with all that ran in it. */
  place(key: string, sandbox: Sandbox | undefined): void {
    this.desired.place(key, sandbox);
    if (sandbox === undefined) this.#enrolments.get(key)?.gone();
    if (this.#started) this.#reconcile();
    this.#tell();
  }

  /** Takes all sandboxes that the runtime has, for pods that it did not tell of by itself. */
  found(sandboxes: ReadonlyMap<string, Sandbox>): void {
    this.desired.found(sandboxes);
    if (!this.#started) return;
    this.#reconcile();
    this.#tell();
  }

  /** Whether a pod that is to be in the mesh has no place, or could not be paired where it was. */
  hasUnplacedPods(): boolean {
    return [...this.#enrolments.values()].some(
      ({ pod, state }) => pod.netns === undefined || state.phase === "failed",
    );
  }

  /** See `DesiredPods.standing`. */
  standing(key: string, uid: string): Standing | undefined {
    return this.#started ? this.desired.standing(key, uid) : undefined;
  }

  /** Who asks for the mesh; undefined before the source has told its first state. */
  get asking(): Asking | undefined {
    return this.#started ? this.desired.asking() : undefined;
  }

  /** The state of the pod's enrolment in that namespace, undefined where there is none. */
  stateIn(key: string, netnsInode: number): PodState | undefined {
    const enrolment = this.#enrolments.get(key);
    return enrolment?.pod.netnsInode === netnsInode ? enrolment.state : undefined;
  }

  /**
   * Looks now and at each change of the pods or of their states, until there is something to see; resolves with
   * it, or with undefined when the signal aborts first.
   */
  until<T>(look: () => T | undefined, signal: AbortSignal): Promise<T | undefined> {
    return new Promise((resolve) => {
      const see = (): void => {
        const seen = look();
        if (seen === undefined && !signal.aborted) return;
        this.#watchers.delete(see);
        signal.removeEventListener("abort", see);
        resolve(seen);
      };
      this.#watchers.add(see);
      signal.addEventListener("abort", see, { once: true });
      see();
    });
  }

  /** Calls `watcher` at each change of the pods or of their states; the answer ends that. */
  onChange(watcher: () => void): () => void {
    this.#watchers.add(watcher);
    return () => this.#watchers.delete(watcher);
  }

  #tell(): void {
    for (const watcher of [...this.#watchers]) watcher();
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
        this.#enrolments.get(pod.key) ??
        this.#start(new PodEnrolment(pod, this.dependencies, () => this.#tell()));
      enrolment.want(pod);
      return enrolment.firstAttempt;
    });
    if (this.#started) return;
    this.#started = true;
    // A pod that asks, and whose place is not known yet, is no pod that has left.
    const recordedOut = this.captured.all.filter(
      ({ key }) => !enrolled.has(key) && this.desired.standing(key, "")?.asks !== true,
    );
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
    const enrolled = [...this.#enrolments.values()].map(({ pod, state, capture }) => ({
      ...row(pod),
      ...report(state),
      ...capture,
    }));
    const out = [...this.#out.values()].map((pod) => ({
      ...row(pod),
      state: "out" as const,
      reason: pod.reason,
      mode: "none",
      guard: "none",
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
      this.#tell();
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
