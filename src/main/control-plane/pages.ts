/** The mesh as the admin pages show it: made from the model and the compiled values when asked. */
import type { CompiledPort, CompiledService, CompiledWorkload } from "../../compile/compiled.js";
import type { Compiler } from "../../compile/compiler.js";
import { conditionsOf, meshProblems } from "../../compile/status.js";
import { enrolment } from "../../domain/enrolment.js";
import { spiffeId } from "../../domain/identity.js";
import type { ServiceKey } from "../../domain/ids.js";
import type { AuthorizationPolicyObject, PeerAuthenticationObject } from "../../domain/objects.js";
import type { Problem } from "../../domain/problem.js";
import type { RequestAuthenticationObject } from "../../domain/request-authentication.js";

type Policy = AuthorizationPolicyObject | PeerAuthenticationObject | RequestAuthenticationObject;

const portOf = ({ servicePort, targetPort, appProtocol }: CompiledPort): object => ({
  port: servicePort,
  target_port: targetPort,
  protocol: appProtocol,
});

const byNamespaceAndName = (
  a: { readonly namespace: string; readonly name: string },
  b: { readonly namespace: string; readonly name: string },
): number => (a.namespace === b.namespace ? (a.name < b.name ? -1 : 1) : a.namespace < b.namespace ? -1 : 1);

function workloadsOf(compiler: Compiler): CompiledWorkload[] {
  return [...compiler.all()].filter((one) => one.type === "workload");
}

export function workloadsPage(compiler: Compiler): readonly object[] {
  const { mesh, config } = compiler;
  return workloadsOf(compiler)
    .sort(byNamespaceAndName)
    .map((one) => {
      const pod = mesh.pods.get(one.namespace, one.name);
      const membership = pod && enrolment(pod, mesh.namespaces.get("", one.namespace), config.enrolment);
      const hbone = one.tunnel === "hbone";
      return {
        uid: one.uid,
        name: one.name,
        namespace: one.namespace,
        ips: one.ips,
        network: one.network,
        node: one.node ?? null,
        service_account: one.serviceAccount,
        identity: hbone
          ? spiffeId({
              trustDomain: one.trustDomain,
              namespace: one.namespace,
              serviceAccount: one.serviceAccount,
            })
          : null,
        protocol: hbone ? "HBONE" : "TCP",
        enrolled: hbone,
        ...(membership?.enrolled === false ? { reason: membership.reason } : {}),
        healthy: one.healthy,
        services: [...one.services.keys()],
        policies: one.policies,
        canonical_name: one.canonicalName,
        canonical_revision: one.canonicalRevision,
        workload: { type: one.workloadType, name: one.workloadName },
        waypoint: one.waypoint ?? null,
      };
    });
}

export function servicesPage(compiler: Compiler): readonly object[] {
  const endpoints = new Map<ServiceKey, { all: number; healthy: number }>();
  for (const workload of workloadsOf(compiler)) {
    for (const key of workload.services.keys()) {
      const count = endpoints.get(key) ?? { all: 0, healthy: 0 };
      endpoints.set(key, { all: count.all + 1, healthy: count.healthy + (workload.healthy ? 1 : 0) });
    }
  }
  return [...compiler.all()]
    .filter((one): one is CompiledService => one.type === "service")
    .sort(byNamespaceAndName)
    .map((one) => ({
      key: one.key,
      name: one.name,
      namespace: one.namespace,
      hostname: one.hostname,
      addresses: one.addresses.map(({ ip, length }) => (length === undefined ? ip : `${ip}/${length}`)),
      ports: one.ports.map(portOf),
      endpoints: endpoints.get(one.key)?.all ?? 0,
      healthy_endpoints: endpoints.get(one.key)?.healthy ?? 0,
      headless: one.headless,
      waypoint: one.waypoint ?? null,
    }));
}

interface Condition {
  readonly type: string;
  readonly status: "True" | "False";
  readonly reason: string;
  readonly message: string;
}

/** The object's conditions; where its file holds a wrong form now, that the last good one is in force comes first. */
function statusOfPolicy(
  compiler: Compiler,
  policy: Policy,
  problems: readonly Problem[],
): readonly Condition[] {
  const { namespace, name } = policy.meta;
  const errors = problems.filter(
    ({ severity, object }) =>
      severity === "error" &&
      object?.kind === policy.kind &&
      object.namespace === namespace &&
      object.name === name,
  );
  const conditions = conditionsOf(compiler, policy).map(({ type, status, reason, message }): Condition => ({
    type,
    status: status ? "True" : "False",
    reason,
    message,
  }));
  if (errors.length === 0) return conditions;
  const message = errors.map((error) => `${error.path}: ${error.message}`).join("; ");
  return [{ type: "Accepted", status: "False", reason: "LastGoodInForce", message }, ...conditions];
}

/** What the source found in the files, and what the last checks of the objects beside each other found. */
export interface FoundProblems {
  readonly source: readonly Problem[];
  readonly checks: readonly Problem[];
}

/** All that is wrong now; of two about one field the compiled mesh knows better. */
export function problemsPage(compiler: Compiler, found: FoundProblems): readonly Problem[] {
  const compiled = meshProblems(compiler);
  const told = new Set(compiled.map(subjectOf));
  return [...found.source, ...compiled, ...found.checks.filter((problem) => !told.has(subjectOf(problem)))];
}

function subjectOf({ object, path }: Problem): string {
  return [object?.kind, object?.namespace, object?.name, path].join("\n");
}

export function policiesPage(compiler: Compiler, problems: readonly Problem[]): readonly object[] {
  const { mesh, config } = compiler;
  const policies: Policy[] = [
    ...mesh.authorizationPolicies.all(),
    ...mesh.peerAuthentications.all(),
    ...mesh.requestAuthentications.all(),
  ];
  return policies
    .map((policy) => {
      const { namespace, name } = policy.meta;
      const scope =
        policy.kind !== "PeerAuthentication" && policy.targetRefs.length > 0
          ? "targets"
          : policy.selector !== undefined
            ? "selector"
            : config.rootNamespaces.includes(namespace)
              ? "mesh"
              : "namespace";
      const authorization = policy.kind === "AuthorizationPolicy";
      return {
        key: `${namespace}/${name}`,
        kind: policy.kind,
        name,
        namespace,
        scope,
        action: actionOf(policy),
        dry_run: authorization && policy.dryRun,
        source_object: `${policy.kind}/${namespace}/${name}`,
        compiled: compiler.compiledFrom(policy).map((one) => (one.type === "authorization" ? one.key : "")),
        status: statusOfPolicy(compiler, policy, problems),
      };
    })
    .sort(byNamespaceAndName);
}

function actionOf(policy: Policy): string {
  switch (policy.kind) {
    case "AuthorizationPolicy":
      return policy.action;
    case "PeerAuthentication":
      return policy.mode;
    case "RequestAuthentication":
      return "JWT";
  }
}

export interface NodeSummary {
  readonly node: string;
  readonly pods: number;
  readonly enrolled: number;
}

/** Nodes that pods name, and how many of their pods are in the mesh. */
export function nodesSummary(compiler: Compiler): NodeSummary[] {
  const { mesh, config } = compiler;
  const nodes = new Map<string, { pods: number; enrolled: number }>();
  for (const pod of mesh.pods.all()) {
    if (pod.nodeName === undefined) continue;
    const count = nodes.get(pod.nodeName) ?? { pods: 0, enrolled: 0 };
    const { enrolled } = enrolment(pod, mesh.namespaces.get("", pod.meta.namespace), config.enrolment);
    nodes.set(pod.nodeName, { pods: count.pods + 1, enrolled: count.enrolled + (enrolled ? 1 : 0) });
  }
  return [...nodes].map(([node, counts]) => ({ node, ...counts })).sort((a, b) => (a.node < b.node ? -1 : 1));
}
