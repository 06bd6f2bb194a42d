import type { NamespaceObject, NodeObject, ServiceAccountObject } from "../../domain/objects.js";
import type { Fields } from "./fields.js";
import { metadataPath, readMeta } from "./meta.js";
import { present, readIp } from "./shared.js";

/** Annotation of standalone: the network namespace of a Pod or Node, a name as in `ip netns` or a path. */
export const netnsAnnotation = "meltemi.io/netns";

const region = ["topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"] as const;
const zone = ["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"] as const;
const subzone = "topology.istio.io/subzone";

/** The netns annotation's value; a path is absolute, a name has no slash, so that nobody leaves the directory. */
export function readNetns(root: Fields, annotations: ReadonlyMap<string, string>): string | undefined {
  const netns = annotations.get(netnsAnnotation);
  if (netns === undefined) return undefined;
  const isPath = netns.startsWith("/") && !netns.split("/").includes("..");
  if (isPath || /^[A-Za-z0-9][A-Za-z0-9._-]{0,254}$/.test(netns)) return netns;
  root.report.error(metadataPath(root, "annotations", netnsAnnotation), {
    value: netns,
    message: "is not a network namespace",
    hint: "a name as in `ip netns`, or an absolute path",
  });
  return undefined;
}

export function decodeNamespace(root: Fields, apiVersion: string): NamespaceObject {
  const { meta } = readMeta(root, apiVersion, { namespaced: false, name: "label", unknown: "warn" });
  return { kind: "Namespace", meta };
}

export function decodeServiceAccount(root: Fields, apiVersion: string): ServiceAccountObject {
  const { meta } = readMeta(root, apiVersion, { namespaced: true, name: "subdomain", unknown: "warn" });
  return { kind: "ServiceAccount", meta };
}

export function decodeNode(root: Fields, apiVersion: string): NodeObject {
  const { meta } = readMeta(root, apiVersion, { namespaced: false, name: "subdomain", unknown: "warn" });
  const internalIps: (string | undefined)[] = [];
  for (const address of root.child("status")?.children("addresses") ?? []) {
    const text = address.requiredString("address");
    if (address.string("type") === "InternalIP" && text !== undefined) {
      internalIps.push(readIp(root.report, address.at("address"), text));
    }
  }
  const label = (keys: readonly string[]): string =>
    keys.map((key) => meta.labels.get(key)).find((value) => value !== undefined) ?? "";
  return {
    kind: "Node",
    meta,
    netns: readNetns(root, meta.annotations),
    region: label(region),
    zone: label(zone),
    subzone: label([subzone]),
    internalIps: present(internalIps),
  };
}
