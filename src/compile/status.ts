/** The status of each object, made when asked for: from the model and what the compiler made of it. */
import { isLive } from "../domain/address-claim.js";
import type { ServiceKey } from "../domain/ids.js";
import { canonicalIp } from "../domain/ip.js";
import type {
  AuthorizationPolicyObject,
  MeshObject,
  PeerAuthenticationObject,
  PodObject,
  ServiceEntryObject,
  ServiceObject,
} from "../domain/objects.js";
import type { ObjectRef, Problem } from "../domain/problem.js";
import type { RequestAuthenticationObject } from "../domain/request-authentication.js";
import { selectorText } from "../domain/selector.js";
import { nameOf, serviceAddresses } from "../model/mesh.js";
import type { CompiledService, ObjectStatus, StatusCondition } from "./compiled.js";
import { destinationRuleConditions, virtualServiceConditions } from "./waypoint/istio-status.js";
import { gatewayConditions, httpRouteConditions } from "./waypoint/status.js";
import { telemetryConditions } from "./waypoint/telemetry.js";
import type { Compiler } from "./compiler.js";
import {
  authorizationConditions,
  peerAuthenticationConditions,
  requestAuthenticationConditions,
} from "./policy-status.js";
import { type AddressOwner, ownerInstead } from "./service-claim.js";
import { rivalFor } from "./workload.js";

function refOf(object: MeshObject): ObjectRef {
  const { apiVersion, namespace, name } = object.meta;
  return { apiVersion, kind: object.kind, namespace, name };
}

function accepted(message: string): StatusCondition {
  return { type: "Accepted", status: true, reason: "Accepted", message };
}

function refused(reason: string, message: string): StatusCondition {
  return { type: "Accepted", status: false, reason, message };
}

function programmed(status: boolean, reason: string, message: string): StatusCondition {
  return { type: "Programmed", status, reason, message };
}

/** Hosts whose service is another object's. */
function lostHosts(compiler: Compiler, object: ServiceObject | ServiceEntryObject): readonly string[] {
  return compiler
    .compiledFrom(object)
    .filter((one): one is CompiledService => one.type === "service" && !compiler.isInForce(one))
    .map(({ hostname }) => hostname);
}

/** An address of an entry that is another object's. */
interface LostAddress {
  readonly index: number;
  readonly value: string;
  readonly owner: AddressOwner;
}

function lostAddresses({ mesh }: Compiler, entry: ServiceEntryObject): readonly LostAddress[] {
  return serviceAddresses(entry).flatMap((address) => {
    const owner = ownerInstead(mesh, entry, address);
    return owner ? [{ index: address.index, value: entry.addresses[address.index] ?? "", owner }] : [];
  });
}

function ownership({ value, owner }: LostAddress): string {
  const whose = `${owner.kind} ${nameOf(owner)}`;
  if (owner.kind === "ServiceEntry") return `is also an address of ${whose}, which is older or first by name`;
  return value.includes("/") ? `holds the address of ${whose}` : `is the address of ${whose}`;
}

function serviceConditions(
  compiler: Compiler,
  service: ServiceObject | ServiceEntryObject,
): readonly StatusCondition[] {
  if (service.kind === "Service" && service.type === "ExternalName") {
    const message = `its name resolves to ${service.externalName ?? "another name"}, which the mesh does not carry`;
    return [refused("ExternalName", message)];
  }
  const hosts = lostHosts(compiler, service);
  const addresses = service.kind === "ServiceEntry" ? lostAddresses(compiler, service) : [];
  if (hosts.length === 0 && addresses.length === 0) return [accepted("understood and taken")];
  const messages = [
    ...(hosts.length > 0 ? [`another object has ${hosts.join(", ")}`] : []),
    ...addresses.map((address) => `${address.value} ${ownership(address)}`),
  ];
  const reason = hosts.length > 0 ? "HostTaken" : "AddressTaken";
  return [accepted("understood and taken"), programmed(false, reason, messages.join("; "))];
}

function podConditions(compiler: Compiler, pod: PodObject): readonly StatusCondition[] {
  if (!isLive(pod)) return [];
  const rivals = rivalsOf(compiler, pod);
  if (rivals.length === 0) return [accepted("known to the mesh")];
  const message = rivals
    .map(({ ip, rival }) => `${ip} is also the address of Pod ${nameOf(rival)}, which has it`)
    .join("; ");
  return [accepted("known to the mesh"), programmed(false, "AddressTaken", message)];
}

function rivalsOf(
  compiler: Compiler,
  pod: PodObject,
): readonly { readonly ip: string; readonly rival: PodObject }[] {
  if (!isLive(pod)) return [];
  return pod.ips.flatMap((ip) => {
    const rival = rivalFor(compiler.mesh, pod, ip);
    return rival ? [{ ip, rival }] : [];
  });
}

/** The conditions of one object; none for kinds that have none. */
export function conditionsOf(compiler: Compiler, object: MeshObject): readonly StatusCondition[] {
  switch (object.kind) {
    case "AuthorizationPolicy":
      return authorizationConditions(compiler, object);
    case "PeerAuthentication":
      return peerAuthenticationConditions(compiler, object);
    case "RequestAuthentication":
      return requestAuthenticationConditions(compiler, object);
    case "Service":
    case "ServiceEntry":
      return serviceConditions(compiler, object);
    case "Pod":
      return podConditions(compiler, object);
    case "WorkloadEntry":
      if (canonicalIp(object.spec.address) !== undefined) return [accepted("known to the mesh")];
      return [
        refused(
          "NameNotResolved",
          `its address "${object.spec.address}" is a name, and names are not resolved yet`,
        ),
      ];
    case "Namespace":
    case "ServiceAccount":
    case "Node":
    case "EndpointSlice":
    case "ReferenceGrant":
    case "ConfigMap":
    case "KeySet":
      return [];
    case "Gateway":
      return gatewayConditions(compiler, object);
    case "Telemetry":
      return telemetryConditions(compiler, object);
    case "HTTPRoute":
    case "GRPCRoute":
      return httpRouteConditions(compiler, object);
    case "VirtualService":
      return virtualServiceConditions(compiler, object);
    case "DestinationRule":
      return destinationRuleConditions(compiler, object);
  }
}

export function statusOf(compiler: Compiler, object: MeshObject): ObjectStatus {
  return {
    object: refOf(object),
    generation: object.meta.generation,
    conditions: conditionsOf(compiler, object),
  };
}

/**
 * What only the compiled mesh shows to be wrong or unwise. What one object alone shows, its decoder has said; what
 * objects show beside each other, domain/checks says.
 */
export function meshProblems(compiler: Compiler): readonly Problem[] {
  const { mesh } = compiler;
  const problems: Problem[] = [];
  const add = (object: MeshObject, problem: Omit<Problem, "object">): void => {
    problems.push({ object: refOf(object), ...problem });
  };
  for (const pod of mesh.pods.all()) {
    // A pod that ends may share its address with the next one.
    if (pod.terminating) continue;
    for (const { ip, rival } of rivalsOf(compiler, pod)) {
      add(pod, {
        severity: "error",
        path: "status.podIP",
        value: ip,
        message: `is also the address of Pod ${nameOf(rival)}, which has it`,
        hint: "give each pod an address of its own",
      });
    }
  }
  for (const entry of mesh.serviceEntries.all()) {
    for (const host of lostHosts(compiler, entry)) {
      add(entry, {
        severity: "warning",
        path: "spec.hosts",
        value: host,
        message: "is the name of another object's service, which is in force",
        hint: "remove one of them",
      });
    }
  }
  for (const entry of mesh.serviceEntries.all()) {
    for (const lost of lostAddresses(compiler, entry)) {
      add(entry, {
        severity: "error",
        path: `spec.addresses[${lost.index}]`,
        value: lost.value,
        message: `${ownership(lost)}: connections to it are not this entry's`,
        hint: "give the entry an address that nobody else has",
      });
    }
  }
  const populated = servicesWithEndpoints(compiler);
  for (const service of mesh.services.all()) {
    const [compiled] = compiler.compiledFrom(service);
    if (service.selector && compiled?.type === "service" && !populated.has(compiled.key)) {
      add(service, {
        severity: "warning",
        path: "spec.selector",
        value: selectorText(service.selector),
        message: "selects no pod: connections to it find no endpoint",
        hint: "compare it with the pods' labels",
      });
    }
    if (service.type !== "ExternalName") continue;
    add(service, {
      severity: "unsupported",
      path: "spec.type",
      value: service.type,
      message: "the name resolves to something that the mesh does not carry",
    });
  }
  for (const policy of [
    ...mesh.authorizationPolicies.all(),
    ...mesh.peerAuthentications.all(),
    ...mesh.requestAuthentications.all(),
  ]) {
    for (const condition of conditionsOf(compiler, policy)) {
      const problem = policyProblem(policy, condition);
      if (problem) add(policy, problem);
    }
  }
  return problems.sort((a, b) => (orderOf(a) < orderOf(b) ? -1 : 1));
}

function orderOf({ object, path, value }: Problem): string {
  return [object?.kind, object?.namespace, object?.name, path, value].join("\n");
}

function servicesWithEndpoints(compiler: Compiler): ReadonlySet<ServiceKey> {
  const keys = new Set<ServiceKey>();
  for (const one of compiler.all())
    if (one.type === "workload") for (const key of one.services.keys()) keys.add(key);
  return keys;
}

function policyProblem(
  { selector }: AuthorizationPolicyObject | PeerAuthenticationObject | RequestAuthenticationObject,
  { status, reason, message }: StatusCondition,
): Omit<Problem, "object"> | undefined {
  const selecting = selector && selector.size > 0 ? { value: selectorText(selector) } : {};
  const path = selector ? "spec.selector.matchLabels" : "";
  switch (reason) {
    case "AppliesToNothing": {
      const hint = "compare its selector and namespace with the pods', and see that they are in the mesh";
      return { severity: "warning", path, ...selecting, message, hint };
    }
    case "SelectorInRootNamespace":
      return { severity: "unsupported", path, ...selecting, message };
    case "Overruled":
      return { severity: "warning", path: "", message };
    case "KeysNotFetched":
      return {
        severity: "error",
        path: "spec.jwtRules",
        message,
        hint: "see that the control plane reaches it",
      };
    case "KeysNotRefreshed":
      return { severity: "warning", path: "spec.jwtRules", message };
    // Said with the field by the decoder (UnsupportedAction) and by domain/checks, or over in a moment.
    case "UnsupportedAction":
    case "NoWaypoint":
    case "NoTargetRefs":
    case "KeysPending":
    case "ProviderNotFound":
    case "ProviderOfOtherPurpose":
      return undefined;
    case "ProviderServiceNotFound":
      return { severity: "warning", path: "spec.provider.name", message };
    default:
      return status ? undefined : { severity: "unsupported", path: "", message };
  }
}
