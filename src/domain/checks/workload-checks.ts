import { outranks } from "../address-claim.js";
import type { MeshObject, NamespaceObject, PodObject } from "../objects.js";
import { formatRef, type Problem } from "../problem.js";
import { problemOf, type Inventory } from "./inventory.js";

function nameOf(object: MeshObject): string {
  const { apiVersion, namespace, name } = object.meta;
  return formatRef({ apiVersion, kind: object.kind, namespace, name });
}

/** Remembers who had a value first. */
class Claims {
  readonly #owners = new Map<string, MeshObject>();

  /** The earlier owner of the value, else undefined and the object owns it. */
  claim(value: string, object: MeshObject): MeshObject | undefined {
    const owner = this.#owners.get(value);
    if (!owner) this.#owners.set(value, object);
    return owner;
  }
}

function isRunning(pod: PodObject): boolean {
  return pod.phase !== "Succeeded" && pod.phase !== "Failed" && !pod.terminating;
}

const byClaim = (a: PodObject, b: PodObject): number => (outranks(a, b) ? -1 : 1);

/** An address tells who a connection is from, and a namespace whose sockets are opened: neither may have two owners. */
export function sharedAddresses(inventory: Inventory): Problem[] {
  const problems: Problem[] = [];
  const addresses = new Claims();
  const namespaces = new Claims();
  const pods = inventory.all("Pod").filter((pod) => !pod.hostNetwork && isRunning(pod));
  for (const pod of pods.sort(byClaim)) {
    for (const ip of pod.ips) {
      const owner = addresses.claim(ip, pod);
      if (!owner) continue;
      const message = `is also the address of ${nameOf(owner)}, which has it`;
      problems.push(
        problemOf(pod, "error", "status.podIP", {
          value: ip,
          message,
          hint: "give each pod an address of its own",
        }),
      );
    }
    const owner = pod.netns === undefined ? undefined : namespaces.claim(pod.netns, pod);
    if (owner && pod.netns !== undefined) {
      const message = `is also the network namespace of ${nameOf(owner)}`;
      const path = 'metadata.annotations["meltemi.io/netns"]';
      problems.push(
        problemOf(pod, "error", path, {
          value: pod.netns,
          message,
          hint: "give each pod a namespace of its own",
        }),
      );
    }
  }
  for (const service of inventory.all("Service")) {
    for (const ip of service.clusterIps) {
      const owner = addresses.claim(ip, service);
      if (!owner) continue;
      const message = `is also the address of ${nameOf(owner)}`;
      problems.push(
        problemOf(service, "error", "spec.clusterIP", {
          value: ip,
          message,
          hint: "give the service an address of its own",
        }),
      );
    }
  }
  return problems;
}

const wishes = new Map([
  ["istio.io/dataplane-mode", ["ambient", "none"]],
  ["meltemi.io/mesh", ["enabled", "disabled"]],
]);

/** A label that asks for the mesh in words it does not have would leave a pod in plaintext without a word. */
export function unknownWishes(inventory: Inventory): Problem[] {
  const problems: Problem[] = [];
  const objects: readonly (NamespaceObject | PodObject)[] = [
    ...inventory.all("Namespace"),
    ...inventory.all("Pod"),
  ];
  for (const object of objects) {
    for (const [label, words] of wishes) {
      const value = object.meta.labels.get(label);
      if (value === undefined || words.includes(value)) continue;
      const hint = `write ${words.map((word) => `"${word}"`).join(" or ")}`;
      const message = "is no known value: the label has no effect";
      problems.push(problemOf(object, "warning", `metadata.labels["${label}"]`, { value, message, hint }));
    }
  }
  return problems;
}

/** A pod's namespace must be there: its labels decide whether its pods are in the mesh. */
export function missingNamespaces(inventory: Inventory): Problem[] {
  const problems: Problem[] = [];
  const told = new Set<string>();
  for (const pod of inventory.all("Pod")) {
    const { namespace } = pod.meta;
    if (told.has(namespace) || inventory.find("Namespace", "", namespace)) continue;
    told.add(namespace);
    const hint = `add a Namespace ${namespace}, or label the pods themselves`;
    problems.push(
      problemOf(pod, "warning", "metadata.namespace", {
        value: namespace,
        message: "has no Namespace object: no label of it can enrol the pod",
        hint,
      }),
    );
  }
  return problems;
}

/** What an enrolled pod lacks to be run on this machine. */
export function incompletePods(inventory: Inventory): Problem[] {
  if (!inventory.options.standalone) return [];
  const problems: Problem[] = [];
  for (const pod of inventory.all("Pod")) {
    if (pod.hostNetwork || !isRunning(pod)) continue;
    const lacks = (path: string, message: string, hint: string): void => {
      problems.push(problemOf(pod, "warning", path, { message, hint }));
    };
    if (pod.ips.length === 0)
      lacks("status.podIP", "is missing: the pod is not in the mesh", "write the pod's address");
    if (pod.nodeName === undefined)
      lacks("spec.nodeName", "is missing: no node serves the pod", "name a node");
    if (pod.netns === undefined && inventory.isEnrolled(pod)) {
      const hint = "name the pod's network namespace";
      lacks('metadata.annotations["meltemi.io/netns"]', "is missing: the pod cannot be captured", hint);
    }
  }
  return problems;
}
