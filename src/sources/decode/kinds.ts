/**
 * Every kind that a directory or cluster is expected to hold and that is not read (yet), with what
 * will read it or why it is not ours. What is in no table is a typing error, or another project's.
 */
interface KnownGroup {
  readonly kinds: ReadonlyMap<string, string>;
}

const sameNote = (note: string, ...kinds: readonly string[]): [string, string][] =>
  kinds.map((kind) => [kind, note]);

const notRun = "Meltemi runs no workloads: list the Pods themselves";
const notConfiguration = "says nothing to a mesh";
const gatewayRoutes =
  "will be read by waypoints and gateways (connections, by port or SNI): today they go to the service that they name";

const groups = new Map<string, KnownGroup>(
  Object.entries<readonly (readonly [string, string])[]>({
    "": [
      ...sameNote(notRun, "ReplicationController", "PodTemplate"),
      ["Endpoints", "write EndpointSlices (discovery.k8s.io/v1)"],
      ["Secret", "will be read by gateways (certificates)"],
      ["ConfigMap", "only istio-system/istio and meltemi-system/meltemi are read, the mesh's own settings"],
      ...sameNote(
        notConfiguration,
        "Binding",
        "ComponentStatus",
        "Event",
        "LimitRange",
        "PersistentVolume",
        "PersistentVolumeClaim",
        "ResourceQuota",
      ),
    ],
    apps: [
      ...sameNote(notRun, "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"),
      ["ControllerRevision", notConfiguration],
    ],
    batch: sameNote(notRun, "Job", "CronJob"),
    autoscaling: sameNote(notConfiguration, "HorizontalPodAutoscaler", "Scale"),
    policy: sameNote(notConfiguration, "PodDisruptionBudget", "PodSecurityPolicy", "Eviction"),
    "discovery.k8s.io": [],
    "events.k8s.io": sameNote(notConfiguration, "Event"),
    "networking.k8s.io": [
      ["Ingress", "will be read by gateways"],
      ["IngressClass", "will be read by gateways"],
      ["NetworkPolicy", "is enforced by the cluster's network, not by the mesh"],
      ...sameNote(notConfiguration, "IPAddress", "ServiceCIDR"),
    ],
    "rbac.authorization.k8s.io": sameNote(
      notConfiguration,
      "Role",
      "RoleBinding",
      "ClusterRole",
      "ClusterRoleBinding",
    ),
    "storage.k8s.io": sameNote(
      notConfiguration,
      "StorageClass",
      "CSIDriver",
      "CSINode",
      "VolumeAttachment",
      "CSIStorageCapacity",
    ),
    "scheduling.k8s.io": sameNote(notConfiguration, "PriorityClass"),
    "node.k8s.io": sameNote(notConfiguration, "RuntimeClass"),
    "coordination.k8s.io": sameNote(notConfiguration, "Lease"),
    "certificates.k8s.io": sameNote(notConfiguration, "CertificateSigningRequest", "ClusterTrustBundle"),
    "apiextensions.k8s.io": sameNote(notConfiguration, "CustomResourceDefinition"),
    "apiregistration.k8s.io": sameNote(notConfiguration, "APIService"),
    "admissionregistration.k8s.io": sameNote(
      notConfiguration,
      "MutatingWebhookConfiguration",
      "ValidatingWebhookConfiguration",
      "ValidatingAdmissionPolicy",
      "ValidatingAdmissionPolicyBinding",
      "MutatingAdmissionPolicy",
      "MutatingAdmissionPolicyBinding",
    ),
    "kustomize.config.k8s.io": sameNote(
      "is input of kustomize: run `kustomize build` and analyze its output",
      "Kustomization",
      "Component",
    ),
    "gateway.networking.k8s.io": [
      ...sameNote(gatewayRoutes, "TCPRoute", "TLSRoute", "UDPRoute"),
      ["GatewayClass", "will be read by the gateway controller; Meltemi's own classes need none"],
      ["BackendTLSPolicy", "will be read by waypoints and gateways (TLS origination)"],
      ["ListenerSet", "will be read by gateways"],
    ],
    "gateway.networking.x-k8s.io": [
      ["XBackendTrafficPolicy", "will be read by waypoints (retries, session persistence)"],
      ["XListenerSet", "will be read by gateways"],
      ["XMesh", "will be read by the control plane"],
    ],
    "networking.istio.io": [
      ["Gateway", "write a Gateway of gateway.networking.k8s.io/v1"],
      ["Sidecar", "configures sidecars, of which this mesh has none"],
      ["EnvoyFilter", "configures Envoy, which Meltemi does not use"],
      ["ProxyConfig", "configures Envoy, which Meltemi does not use"],
      ["WorkloadGroup", "will be read when machines outside the cluster register themselves"],
    ],
    "security.istio.io": [],
    "telemetry.istio.io": [],
    "extensions.istio.io": [["WasmPlugin", "configures Envoy, which Meltemi does not use"]],
    "install.istio.io": [["IstioOperator", "is input of istioctl, not of a mesh"]],
  }).map(([group, kinds]) => [group, { kinds: new Map(kinds) }]),
);

/** Why a known kind is not acted upon, or undefined if the group has no such kind. */
export function unsupportedNote(group: string, kind: string): string | undefined {
  return groups.get(group)?.kinds.get(kind);
}

export function isKnownGroup(group: string): boolean {
  return groups.has(group);
}

export function knownGroups(): Iterable<string> {
  return groups.keys();
}

/** All kinds of all groups that are known and not read. */
export function* unsupportedKinds(): Generator<{ readonly group: string; readonly kind: string }> {
  for (const [group, { kinds }] of groups) for (const kind of kinds.keys()) yield { group, kind };
}
