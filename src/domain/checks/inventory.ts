import { enrolment, type EnrolmentRules } from "../enrolment.js";
import type { MeshObject, PodObject, ServiceObject } from "../objects.js";
import type { Problem } from "../problem.js";
import { selects } from "../selector.js";

export interface CheckOptions {
  /** Policies of these namespaces are for the whole mesh. */
  readonly rootNamespaces: readonly string[];
  readonly trustDomain: string;
  readonly enrolment: EnrolmentRules;
  /** Pods run on this machine, in network namespaces that their annotations name. */
  readonly standalone: boolean;
}

type OfKind<K extends MeshObject["kind"]> = Extract<MeshObject, { kind: K }>;

/** What a label selector selects: all of the namespace where there is none. */
export type Selector = ReadonlyMap<string, string> | undefined;

/** All objects, found by what the checks ask for. Built once for one run of the checks. */
export class Inventory {
  readonly #byKind = new Map<MeshObject["kind"], MeshObject[]>();
  readonly #byKey = new Map<string, MeshObject>();
  /** Namespaces that an object names, whether or not there is a Namespace object. */
  readonly namespaces = new Set<string>();
  readonly #serviceAccounts = new Set<string>();
  readonly #podsByNamespace = new Map<string, PodObject[]>();
  /** Pods by `NAMESPACE\nKEY=VALUE`. */
  readonly #podsByLabel = new Map<string, PodObject[]>();

  constructor(readonly options: CheckOptions) {}

  add(object: MeshObject): void {
    const { namespace, name } = object.meta;
    append(this.#byKind, object.kind, object);
    this.#byKey.set(`${object.kind}/${namespace}/${name}`, object);
    if (object.kind === "Namespace") this.namespaces.add(name);
    else if (namespace !== "") this.namespaces.add(namespace);
    if (object.kind === "ServiceAccount") this.#serviceAccounts.add(`${namespace}/${name}`);
    if (object.kind === "Pod") {
      this.#serviceAccounts.add(`${namespace}/${object.serviceAccount}`);
      append(this.#podsByNamespace, namespace, object);
      for (const [key, value] of object.meta.labels)
        append(this.#podsByLabel, `${namespace}\n${key}=${value}`, object);
    }
    if (object.kind === "WorkloadEntry" && object.spec.serviceAccount !== "") {
      this.#serviceAccounts.add(`${namespace}/${object.spec.serviceAccount}`);
    }
  }

  all<K extends MeshObject["kind"]>(kind: K): readonly OfKind<K>[] {
    return (this.#byKind.get(kind) ?? []) as OfKind<K>[];
  }

  find<K extends MeshObject["kind"]>(kind: K, namespace: string, name: string): OfKind<K> | undefined {
    return this.#byKey.get(`${kind}/${namespace}/${name}`) as OfKind<K> | undefined;
  }

  /** Whether an account is declared or used; every namespace has its `default`. */
  hasServiceAccount(namespace: string, name: string): boolean {
    return (
      (name === "default" && this.namespaces.has(namespace)) ||
      this.#serviceAccounts.has(`${namespace}/${name}`)
    );
  }

  /** Pods of a namespace that a selector matches; of every namespace from a root namespace. */
  podsOf(policyNamespace: string, selector: Selector): PodObject[] {
    if (!this.isRoot(policyNamespace)) return this.podsIn(policyNamespace, selector);
    return this.all("Pod").filter((pod) => selects(selector, pod.meta.labels));
  }

  /** Pods of one namespace that a selector matches. */
  podsIn(namespace: string, selector: Selector): PodObject[] {
    let candidates = this.#podsByNamespace.get(namespace) ?? [];
    for (const [key, value] of selector ?? []) {
      const labelled = this.#podsByLabel.get(`${namespace}\n${key}=${value}`) ?? [];
      if (labelled.length < candidates.length) candidates = labelled;
    }
    return candidates.filter((pod) => selects(selector, pod.meta.labels));
  }

  /** Pods that a service selects. */
  podsBehind(service: ServiceObject): PodObject[] {
    return service.selector ? this.podsIn(service.meta.namespace, service.selector) : [];
  }

  isRoot(namespace: string): boolean {
    return this.options.rootNamespaces.includes(namespace);
  }

  isEnrolled(pod: PodObject): boolean {
    const namespace = this.find("Namespace", "", pod.meta.namespace);
    return enrolment(pod, namespace, this.options.enrolment).enrolled;
  }
}

function append<K, T>(lists: Map<K, T[]>, key: K, value: T): void {
  const list = lists.get(key);
  if (list) list.push(value);
  else lists.set(key, [value]);
}

/** A problem about one field of an object of the inventory. */
export function problemOf(
  object: MeshObject,
  severity: Problem["severity"],
  path: string,
  finding: {
    readonly message: string;
    readonly value?: string | undefined;
    readonly hint?: string | undefined;
  },
): Problem {
  const { apiVersion, namespace, name } = object.meta;
  return {
    severity,
    object: { apiVersion, kind: object.kind, namespace, name },
    path,
    message: finding.message,
    ...(finding.value !== undefined && { value: finding.value }),
    ...(finding.hint !== undefined && { hint: finding.hint }),
  };
}
