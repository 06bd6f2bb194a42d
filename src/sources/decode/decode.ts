import { didYouMean, nearest } from "../../domain/nearest.js";
import { meshConfigMaps } from "../../domain/mesh-config.js";
import type { MeshKind, MeshObject } from "../../domain/objects.js";
import type { ObjectRef, Problem } from "../../domain/problem.js";
import { decodeAuthorizationPolicy } from "./authorization-policy.js";
import { decodeNamespace, decodeNode, decodeServiceAccount } from "./core.js";
import { decodeDestinationRule } from "./destination-rule.js";
import { decodeEndpointSlice } from "./endpoint-slice.js";
import { childPath, Fields, isMapping, type Mapping } from "./fields.js";
import { decodeGateway } from "./gateway.js";
import { decodeGrpcRoute } from "./grpc-route.js";
import { decodeHttpRoute, decodeReferenceGrant } from "./http-route.js";
import { isKnownGroup, knownGroups, unsupportedKinds, unsupportedNote } from "./kinds.js";
import { decodeMeshConfig } from "./mesh-config.js";
import { decodePeerAuthentication } from "./peer-authentication.js";
import { decodePod } from "./pod.js";
import { Report } from "./report.js";
import { decodeRequestAuthentication } from "./request-authentication.js";
import { decodeServiceEntry } from "./service-entry.js";
import { decodeService } from "./service.js";
import type { DecodeOptions } from "./shared.js";
import { decodeTelemetry } from "./telemetry.js";
import { decodeVirtualService } from "./virtual-service.js";
import { decodeWorkloadEntry } from "./workload-entry.js";

/**
 * What became of one object: every object is one of these, so nothing is dropped unnamed.
 * `refused` and `unsupported` have at least one problem that says why.
 */
export type Decoded =
  | {
      readonly outcome: "understood";
      readonly object: MeshObject;
      readonly ref: ObjectRef;
      readonly problems: readonly Problem[];
    }
  | {
      readonly outcome: "unsupported";
      readonly ref: ObjectRef | undefined;
      readonly problems: readonly Problem[];
    }
  | {
      readonly outcome: "refused";
      /** Set where the object's identity could be read, so that its last good form can stay in force. */
      readonly key:
        { readonly kind: MeshKind; readonly namespace: string; readonly name: string } | undefined;
      readonly ref: ObjectRef | undefined;
      readonly problems: readonly Problem[];
    };

type Decode = (root: Fields, apiVersion: string, options: DecodeOptions) => MeshObject;

interface Decoder {
  readonly group: string;
  readonly kind: MeshKind;
  readonly versions: readonly string[];
  readonly decode: Decode;
  /** Of a kind that everybody uses: the objects that are read, others are nobody's business here. */
  readonly only?: readonly { readonly namespace: string; readonly name: string }[];
}

const istioSecurity = ["v1", "v1beta1"];
const gatewayGroup = "gateway.networking.k8s.io";
const istioNetworking = ["v1", "v1beta1", "v1alpha3"];

const decoders: readonly Decoder[] = [
  { group: "", kind: "Namespace", versions: ["v1"], decode: decodeNamespace },
  { group: "", kind: "ServiceAccount", versions: ["v1"], decode: decodeServiceAccount },
  { group: "", kind: "Node", versions: ["v1"], decode: decodeNode },
  { group: "", kind: "Pod", versions: ["v1"], decode: decodePod },
  { group: "", kind: "Service", versions: ["v1"], decode: decodeService },
  { group: "", kind: "ConfigMap", versions: ["v1"], decode: decodeMeshConfig, only: meshConfigMaps },
  { group: "discovery.k8s.io", kind: "EndpointSlice", versions: ["v1"], decode: decodeEndpointSlice },
  {
    group: "security.istio.io",
    kind: "AuthorizationPolicy",
    versions: istioSecurity,
    decode: decodeAuthorizationPolicy,
  },
  {
    group: "security.istio.io",
    kind: "PeerAuthentication",
    versions: istioSecurity,
    decode: decodePeerAuthentication,
  },
  {
    group: "security.istio.io",
    kind: "RequestAuthentication",
    versions: istioSecurity,
    decode: decodeRequestAuthentication,
  },
  {
    group: "telemetry.istio.io",
    kind: "Telemetry",
    versions: ["v1", "v1alpha1"],
    decode: decodeTelemetry,
  },
  {
    group: "networking.istio.io",
    kind: "ServiceEntry",
    versions: istioNetworking,
    decode: decodeServiceEntry,
  },
  {
    group: "networking.istio.io",
    kind: "WorkloadEntry",
    versions: istioNetworking,
    decode: decodeWorkloadEntry,
  },
  {
    group: "networking.istio.io",
    kind: "VirtualService",
    versions: istioNetworking,
    decode: decodeVirtualService,
  },
  {
    group: "networking.istio.io",
    kind: "DestinationRule",
    versions: istioNetworking,
    decode: decodeDestinationRule,
  },
  { group: gatewayGroup, kind: "Gateway", versions: ["v1", "v1beta1"], decode: decodeGateway },
  { group: gatewayGroup, kind: "HTTPRoute", versions: ["v1", "v1beta1"], decode: decodeHttpRoute },
  { group: gatewayGroup, kind: "GRPCRoute", versions: ["v1"], decode: decodeGrpcRoute },
  { group: gatewayGroup, kind: "ReferenceGrant", versions: ["v1", "v1beta1"], decode: decodeReferenceGrant },
];

/** Every kind that is understood, with its API group and the versions of it, the preferred one first. */
export function readableKinds(): readonly {
  readonly group: string;
  readonly kind: MeshKind;
  readonly versions: readonly string[];
  /** The only objects of the kind that are read; all where it is absent. */
  readonly only?: readonly { readonly namespace: string; readonly name: string }[];
}[] {
  return decoders;
}

const byGroupKind = new Map(decoders.map((decoder) => [`${decoder.group}/${decoder.kind}`, decoder]));
const clusterScoped = new Set<string>(["Namespace", "Node"]);

function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}

function refOf(value: Mapping): ObjectRef {
  const metadata = isMapping(value["metadata"]) ? value["metadata"] : {};
  return {
    apiVersion: text(value["apiVersion"]),
    kind: text(value["kind"]),
    namespace: text(metadata["namespace"]),
    name: text(metadata["name"]),
  };
}

function splitApiVersion(apiVersion: string): { readonly group: string; readonly version: string } {
  const slash = apiVersion.indexOf("/");
  if (slash < 0) return { group: "", version: apiVersion };
  return { group: apiVersion.slice(0, slash), version: apiVersion.slice(slash + 1) };
}

/** Whether anything of a Kubernetes object is there; if not, the document is another program's file. */
function looksLikeObject(value: Mapping): boolean {
  return "apiVersion" in value || "kind" in value || ("metadata" in value && "spec" in value);
}

function refused(report: Report, key?: { kind: MeshKind; namespace: string; name: string }): Decoded {
  return { outcome: "refused", key, ref: report.object, problems: report.problems };
}

function allKinds(): string[] {
  return [...decoders.map(({ kind }) => kind), ...[...unsupportedKinds()].map(({ kind }) => kind)];
}

/** The group in which a kind is at home, for a hint to who wrote the wrong one. */
function homeOf(kind: string): string | undefined {
  const decoder = decoders.find((candidate) => candidate.kind === kind);
  if (decoder) return `${decoder.group === "" ? "" : `${decoder.group}/`}${decoder.versions[0] ?? "v1"}`;
  const known = [...unsupportedKinds()].find((candidate) => candidate.kind === kind);
  return known && (known.group === "" ? "v1" : `${known.group}/v1`);
}

/** A kind with no decoder: known and not read yet, another project's, or misspelt. */
function decodeOther(report: Report, basePath: string, apiVersion: string, kind: string): Decoded {
  const { group } = splitApiVersion(apiVersion);
  const note = unsupportedNote(group, kind);
  if (note !== undefined) {
    const state = byGroupKind.has(`${group}/${kind}`) ? "is not read" : "is not supported yet";
    report.unsupported(basePath, { message: `${kind} ${state}`, hint: note });
    return { outcome: "unsupported", ref: report.object, problems: report.problems };
  }
  if (isKnownGroup(group) || group === "") {
    const home = homeOf(kind);
    const hint = home === undefined ? didYouMean(kind, allKinds()) : `write apiVersion: ${home}`;
    report.error(childPath(basePath, "kind"), {
      value: kind,
      message: `${apiVersion} has no such kind`,
      hint,
    });
    return refused(report);
  }
  const meant = nearest(group, knownGroups());
  if (!group.includes(".") || (meant !== undefined && homeOf(kind) !== undefined)) {
    const hint = homeOf(kind) ?? meant;
    report.error(childPath(basePath, "apiVersion"), {
      value: apiVersion,
      message: "is not an API group",
      ...(hint && { hint: `did you mean ${hint}?` }),
    });
    return refused(report);
  }
  report.unsupported(basePath, { message: `${kind} is another project's resource and is not read` });
  return { outcome: "unsupported", ref: report.object, problems: report.problems };
}

/**
 * Decodes one Kubernetes object, given as plain data, into the mesh's own form or all its problems.
 * `basePath` stands before every path (an item of a List). Lists are decoded by `decodeAll`.
 */
export function decodeObject(value: unknown, options: DecodeOptions, basePath = ""): Decoded {
  const report = new Report();
  if (!isMapping(value)) {
    report.error(basePath, {
      value: value ?? "null",
      message: "is not a Kubernetes object",
      hint: "an object has apiVersion, kind and metadata",
    });
    return refused(report);
  }
  const root = new Fields(report, basePath, value);
  if (!looksLikeObject(value)) {
    const keys = Object.keys(value).slice(0, 3).join(", ");
    report.unsupported(basePath, {
      message: `is not a Kubernetes object (it begins with ${keys || "nothing"}) and is not read`,
    });
    return { outcome: "unsupported", ref: undefined, problems: report.problems };
  }
  report.object = refOf(value);
  const apiVersion = root.requiredString("apiVersion", "such as v1 or security.istio.io/v1");
  const kind = root.requiredString("kind");
  if (apiVersion === undefined || kind === undefined) return refused(report);
  const { group, version } = splitApiVersion(apiVersion);
  const decoder = byGroupKind.get(`${group}/${kind}`);
  const { namespace: ofNamespace, name } = report.object;
  const isRead = decoder?.only?.some((one) => one.namespace === ofNamespace && one.name === name) ?? true;
  if (!decoder || !isRead) return decodeOther(report, basePath, apiVersion, kind);
  const namespace = clusterScoped.has(kind) ? "" : report.object.namespace || "default";
  report.object = { ...report.object, namespace };
  if (!decoder.versions.includes(version)) {
    const known = decoder.versions.map((known) => (group === "" ? known : `${group}/${known}`)).join(", ");
    report.error(root.at("apiVersion"), {
      value: apiVersion,
      message: `is not a version of ${kind}`,
      hint: `write ${known}`,
    });
  }
  const object = decoder.decode(root, apiVersion, options);
  const key = { kind: decoder.kind, namespace, name: report.object.name };
  if (report.failed) return refused(report, key.name === "" ? undefined : key);
  return { outcome: "understood", object, ref: report.object, problems: report.problems };
}

/** Whether the value is a List of objects (`v1 List`, or `PodList` and the like), and of what. */
function listItemsOf(
  value: unknown,
): { readonly items: readonly unknown[]; readonly of: Mapping } | undefined {
  if (!isMapping(value)) return undefined;
  const kind = text(value["kind"]);
  const items = value["items"];
  if (!kind.endsWith("List") || !Array.isArray(items)) return undefined;
  const itemKind = kind.slice(0, -"List".length);
  return { items, of: itemKind === "" ? {} : { apiVersion: value["apiVersion"], kind: itemKind } };
}

/** Decodes one document: an object, or each item of a List. Always at least one answer, unless the List is empty. */
export function decodeAll(value: unknown, options: DecodeOptions): Decoded[] {
  const list = listItemsOf(value);
  if (!list) return [decodeObject(value, options)];
  return list.items.map((item, index) => {
    const whole = isMapping(item) ? { ...list.of, ...item } : item;
    return decodeObject(whole, options, `items[${index}]`);
  });
}
