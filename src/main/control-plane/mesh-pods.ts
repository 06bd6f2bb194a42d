/** The CA's question to the model: does this node host a pod of this identity, or is it this waypoint's own? */
import { waypointOf } from "../../ca/callers.js";
import type { PodsOnNode } from "../../ca/ports.js";
import { enrolment, type EnrolmentRules } from "../../domain/enrolment.js";
import type { Identity } from "../../domain/identity.js";
import { isWaypoint } from "../../domain/waypoint-class.js";
import type { Mesh } from "../../model/mesh.js";

export class MeshPods implements PodsOnNode {
  readonly #mesh: Mesh;
  readonly #rules: EnrolmentRules;
  readonly #trustDomain: string;
  readonly #waiters = new Set<() => void>();

  constructor(mesh: Mesh, rules: EnrolmentRules, trustDomain: string) {
    this.#mesh = mesh;
    this.#rules = rules;
    this.#trustDomain = trustDomain;
  }

  hosts(caller: string, identity: Identity): boolean {
    if (identity.trustDomain !== this.#trustDomain) return false;
    const waypoint = waypointOf(caller);
    return waypoint === undefined ? this.#nodeHosts(caller, identity) : this.#isWaypoint(waypoint, identity);
  }

  /** A waypoint has the identity of its own name, while its Gateway is one. */
  #isWaypoint(waypoint: string, { namespace, serviceAccount }: Identity): boolean {
    const gateway = this.#mesh.gateways.get(namespace, serviceAccount);
    return gateway !== undefined && isWaypoint(gateway) && waypoint === `${namespace}/${serviceAccount}`;
  }

  #nodeHosts(node: string, identity: Identity): boolean {
    for (const name of this.#mesh.podsByNode.get(node)) {
      const pod = this.#mesh.pods.named(name);
      if (pod?.meta.namespace !== identity.namespace || pod.serviceAccount !== identity.serviceAccount)
        continue;
      if (enrolment(pod, this.#mesh.namespaces.get("", identity.namespace), this.#rules).enrolled)
        return true;
    }
    return false;
  }

  /** To be called after each change of the mesh. */
  changed(): void {
    for (const wake of [...this.#waiters]) wake();
  }

  nextChange(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      if (signal.aborted) {
        resolve();
        return;
      }
      const wake = (): void => {
        this.#waiters.delete(wake);
        signal.removeEventListener("abort", wake);
        resolve();
      };
      this.#waiters.add(wake);
      signal.addEventListener("abort", wake, { once: true });
    });
  }
}
