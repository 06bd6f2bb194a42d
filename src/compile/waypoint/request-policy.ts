/** AuthorizationPolicies for waypoints: those attached by `targetRefs` to a waypoint, or to a service behind one. */
import { fullHost } from "../../domain/host-name.js";
import { meshConfigMaps, type ExtensionProvider } from "../../domain/mesh-config.js";
import type { AuthorizationPolicyObject } from "../../domain/objects.js";
import type { Mesh } from "../../model/mesh.js";
import type { CompileConfig } from "../config.js";
import { partsOf, reachOf } from "./attachment.js";
import type { CompiledAuthorizer, CompiledRequestPolicy } from "./config.js";
import { servicesNamed } from "./known-service.js";

/** The extension provider of a name; of two, the one in the mesh's own settings. */
export function extensionProvider(mesh: Mesh, name: string): ExtensionProvider | undefined {
  for (const { namespace, name: map } of meshConfigMaps) {
    const providers = mesh.configMaps.get(namespace, map)?.extensionProviders;
    const found = providers?.find((provider) => provider.name === name);
    if (found) return found;
  }
  return undefined;
}

export type ProviderProblem = "ProviderNotFound" | "ProviderOfOtherPurpose" | "ProviderServiceNotFound";

/**
 * Who is asked for a CUSTOM policy, or why nobody can be. Who answers decides who may: a cluster's name is a Service's
 * alone, and of other names an entry of a root namespace goes before those that anybody may write.
 */
export function authorizerOf(
  mesh: Mesh,
  config: CompileConfig,
  policy: AuthorizationPolicyObject,
): CompiledAuthorizer | ProviderProblem {
  const provider = extensionProvider(mesh, policy.provider ?? "");
  if (!provider) return "ProviderNotFound";
  if (provider.type === "other") return "ProviderOfOtherPurpose";
  const [, namespace, host = ""] = /^(?:([^/]+)\/)?(.+)$/.exec(provider.service) ?? [];
  const full = fullHost(host, namespace ?? config.rootNamespaces[0], config.domainSuffix);
  const ofCluster = full.endsWith(`.svc.${config.domainSuffix}`);
  const services = servicesNamed(mesh, config, full).filter(
    ({ object, meta }) =>
      (!ofCluster || object.kind === "Service") && (namespace === undefined || meta.namespace === namespace),
  );
  const service = services.find(({ meta }) => config.rootNamespaces.includes(meta.namespace)) ?? services[0];
  return service ? { service: service.key, provider } : "ProviderServiceNotFound";
}

export function compileRequestPolicy(
  mesh: Mesh,
  config: CompileConfig,
  policy: AuthorizationPolicyObject,
): readonly CompiledRequestPolicy[] {
  if (policy.targetRefs.length === 0) return [];
  const { namespace, name } = policy.meta;
  const authorizer = policy.action === "CUSTOM" ? authorizerOf(mesh, config, policy) : undefined;
  return partsOf(policy.meta, reachOf(mesh, config, policy)).map((part) => ({
    type: "waypoint_config",
    kind: "request_policy",
    name: part.name,
    waypoints: part.waypoints,
    namespace,
    policyName: name,
    sourceObject: `AuthorizationPolicy/${namespace}/${name}`,
    action: policy.action,
    provider: policy.provider ?? "",
    external: typeof authorizer === "object" ? authorizer : undefined,
    dryRun: policy.dryRun,
    targets: part.targets,
    rules: policy.rules.map((rule) => ({
      ...rule,
      when: rule.when.map((condition) => ({
        key: condition.key,
        values:
          condition.key === "source.serviceAccount"
            ? {
                any: condition.values.any.map((text) => qualified(text, namespace)),
                none: condition.values.none.map((text) => qualified(text, namespace)),
              }
            : condition.values,
      })),
    })),
  }));
}

/** A service account of the policy's own namespace may be written without it. */
function qualified(account: string, namespace: string): string {
  return account.includes("/") ? account : `${namespace}/${account}`;
}
