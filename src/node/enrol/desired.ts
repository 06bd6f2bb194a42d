import { asksForMesh, enrolment, type EnrolmentRules, type OutReason } from "../../domain/enrolment.js";
import { podUid } from "../../domain/ids.js";
import type { NamespaceObject, PodObject } from "../../domain/objects.js";
import type { SourceBatch } from "../../domain/source-event.js";
import { readOptOuts, type OptOuts } from "../capture/settings.js";

/** A pod of this node that is to be in the mesh. */
export interface EnrolledPod {
  /** `NAMESPACE/NAME`. */
  readonly key: string;
  /** The workload's uid in discovery, `CLUSTER//Pod/NAMESPACE/NAME`. */
  readonly workloadUid: string;
  /** Kubernetes' uid, which tells a pod from its successor of the same name. */
  readonly podUid: string;
  readonly namespace: string;
  readonly name: string;
  readonly serviceAccount: string;
  readonly ips: readonly string[];
  readonly netns: string | undefined;
  /** Where the runtime told of the namespace: its inode. A namespace of the same name that has another is not the pod's. */
  readonly netnsInode?: number | undefined;
  /** What its owner left out of capture. */
  readonly capture: OptOuts;
}

/** A pod's sandbox as the runtime's network plugin told of it: what the source learns only once the pod runs. */
export interface Sandbox {
  /** Kubernetes' uid; empty where the runtime does not tell. */
  readonly podUid: string;
  readonly netns: string;
  readonly netnsInode: number;
  readonly ips: readonly string[];
}

/** What is known of a pod's wish, with or without a place to run. */
export type Standing = { readonly asks: true } | { readonly asks: false; readonly reason: OutReason };

/** Who asks for the mesh, for those who must know it while the agent is away (cni/list.ts). */
export interface Asking {
  readonly never: readonly string[];
  readonly namespaces: ReadonlyMap<string, boolean>;
  readonly pods: ReadonlyMap<string, { readonly uid: string; readonly asks: boolean }>;
}

/** A pod of this node that is not. */
export interface OutPod {
  readonly key: string;
  readonly workloadUid: string;
  readonly namespace: string;
  readonly name: string;
  readonly serviceAccount: string;
  readonly ips: readonly string[];
  readonly netns: string | undefined;
  readonly reason: OutReason;
  /** Its address and namespace are its own, so that no enrolled pod may claim them. */
  readonly holdsAddress: boolean;
}

export interface Desired {
  readonly enrolled: ReadonlyMap<string, EnrolledPod>;
  readonly out: ReadonlyMap<string, OutPod>;
}

const meshNamespaces = ["meltemi-system", "istio-system"] as const;

export interface NodeScope {
  readonly node: string;
  readonly cluster: string;
  readonly rules: EnrolmentRules;
}

/**
 * What the source says about this node's pods: keeps its pods and all namespaces, and applies the one
 * enrolment rule (domain/enrolment.ts).
 */
export class DesiredPods {
  readonly #pods = new Map<string, PodObject>();
  readonly #namespaces = new Map<string, NamespaceObject>();
  readonly #sandboxes = new Map<string, Sandbox>();
  /** Those that were found by asking the runtime, for pods that nobody told of. */
  #found = new Map<string, Sandbox>();

  constructor(private readonly scope: NodeScope) {}

  /** Takes a batch as a whole; true when it concerned a pod of this node or a namespace. */
  take(batch: SourceBatch): boolean {
    let changed = false;
    for (const event of batch.events) {
      if (event.type === "apply") {
        const { object } = event;
        if (object.kind === "Pod") changed = this.#takePod(object) || changed;
        else if (object.kind === "Namespace") {
          this.#namespaces.set(object.meta.name, object);
          changed = true;
        }
      } else if (event.kind === "Pod") {
        changed = this.#pods.delete(`${event.namespace}/${event.name}`) || changed;
      } else if (event.kind === "Namespace") {
        changed = this.#namespaces.delete(event.name) || changed;
      }
    }
    return changed;
  }

  #takePod(pod: PodObject): boolean {
    const key = `${pod.meta.namespace}/${pod.meta.name}`;
    if (pod.nodeName !== this.scope.node) return this.#pods.delete(key);
    this.#pods.set(key, pod);
    return true;
  }

  /** Takes what the runtime tells of a pod's sandbox; undefined: it is gone. */
  place(key: string, sandbox: Sandbox | undefined): void {
    if (sandbox === undefined) {
      this.#sandboxes.delete(key);
      this.#found.delete(key);
    } else this.#sandboxes.set(key, sandbox);
  }

  /** Takes all sandboxes that the runtime has now. What it told by itself (`place`) comes before. */
  found(sandboxes: ReadonlyMap<string, Sandbox>): void {
    this.#found = new Map(sandboxes);
  }

  /** Undefined where the source has not told of the pod, or of another one of that name. An empty uid matches any. */
  standing(key: string, uid: string): Standing | undefined {
    const namespace = key.slice(0, key.indexOf("/"));
    if (this.scope.rules.excludedNamespaces.has(namespace))
      return { asks: false, reason: "system_namespace" };
    const pod = this.#pods.get(key);
    if (pod === undefined || !sameUid(pod.meta.uid, uid)) return undefined;
    const decision = enrolment(pod, this.#namespaces.get(namespace), this.scope.rules);
    // Without an address yet: the wish is all there is.
    return decision.enrolled || decision.reason === "no_address"
      ? { asks: true }
      : { asks: false, reason: decision.reason };
  }

  asking(): Asking {
    return {
      never: [...this.scope.rules.excludedNamespaces],
      namespaces: new Map([...this.#namespaces].map(([name, object]) => [name, asksForMesh(object)])),
      pods: new Map(
        [...this.#pods].map(([key, { meta }]) => [
          key,
          { uid: meta.uid, asks: this.standing(key, meta.uid)?.asks ?? true },
        ]),
      ),
    };
  }

  /**
   * The pod as it runs: what the runtime told comes before what was found, and both before what the source says. One
   * that is of another pod of that name, whose end nobody has told of, hides nothing.
   */
  #placed(key: string, pod: PodObject): { readonly pod: PodObject; readonly netnsInode?: number } {
    const sandbox = [this.#sandboxes.get(key), this.#found.get(key)].find(
      (one) => one !== undefined && sameUid(pod.meta.uid, one.podUid),
    );
    if (sandbox === undefined) return { pod };
    return {
      pod: { ...pod, netns: sandbox.netns, ips: sandbox.ips },
      netnsInode: sandbox.netnsInode,
    };
  }

  /** The namespace whose labels and annotations speak for the whole mesh. */
  #mesh(): NamespaceObject["meta"] | undefined {
    return meshNamespaces.map((name) => this.#namespaces.get(name)?.meta).find((meta) => meta !== undefined);
  }

  current(): Desired {
    const enrolled = new Map<string, EnrolledPod>();
    const out = new Map<string, OutPod>();
    for (const [key, told] of this.#pods) {
      const { pod, netnsInode } = this.#placed(key, told);
      const { namespace, name } = pod.meta;
      const common = {
        key,
        workloadUid: podUid(this.scope.cluster, namespace, name),
        namespace,
        name,
        serviceAccount: pod.serviceAccount,
        ips: pod.ips,
        netns: pod.netns,
      };
      const decision = enrolment(pod, this.#namespaces.get(namespace), this.scope.rules);
      if (decision.enrolled) {
        const capture = readOptOuts(pod.meta, this.#namespaces.get(namespace)?.meta, this.#mesh());
        enrolled.set(key, { ...common, podUid: pod.meta.uid, netnsInode, capture });
      } else {
        const over = decision.reason === "terminated" || decision.reason === "no_address";
        out.set(key, { ...common, reason: decision.reason, holdsAddress: !over && !pod.hostNetwork });
      }
    }
    return { enrolled, out };
  }
}

/** Sources and runtimes may not know uids: what is not known differs from nothing. */
function sameUid(a: string, b: string): boolean {
  return a === "" || b === "" || a === b;
}

/** Whether the same is left out of capture. */
export const sameOptOuts = (a: OptOuts, b: OptOuts): boolean => JSON.stringify(a) === JSON.stringify(b);

/** Whether two readings of a pod name the same running pod, in all that pairing and identity rest on. */
export function samePod(a: EnrolledPod, b: EnrolledPod): boolean {
  return (
    a.key === b.key &&
    a.podUid === b.podUid &&
    a.serviceAccount === b.serviceAccount &&
    a.netns === b.netns &&
    a.netnsInode === b.netnsInode &&
    a.ips.length === b.ips.length &&
    a.ips.every((ip, index) => ip === b.ips[index])
  );
}
