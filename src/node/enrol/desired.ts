import { enrolment, type EnrolmentRules, type OutReason } from "../../domain/enrolment.js";
import { podUid } from "../../domain/ids.js";
import type { NamespaceObject, PodObject } from "../../domain/objects.js";
import type { SourceBatch } from "../../domain/source-event.js";

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

  current(): Desired {
    const enrolled = new Map<string, EnrolledPod>();
    const out = new Map<string, OutPod>();
    for (const [key, pod] of this.#pods) {
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
      if (decision.enrolled) enrolled.set(key, { ...common, podUid: pod.meta.uid });
      else {
        const over = decision.reason === "terminated" || decision.reason === "no_address";
        out.set(key, { ...common, reason: decision.reason, holdsAddress: !over && !pod.hostNetwork });
      }
    }
    return { enrolled, out };
  }
}

/** Whether two readings of a pod name the same running pod, in all that pairing and identity rest on. */
export function samePod(a: EnrolledPod, b: EnrolledPod): boolean {
  return (
    a.key === b.key &&
    a.podUid === b.podUid &&
    a.serviceAccount === b.serviceAccount &&
    a.netns === b.netns &&
    a.ips.length === b.ips.length &&
    a.ips.every((ip, index) => ip === b.ips[index])
  );
}
