import { rootConfigMaps } from "../controllers/root-publisher.js";
import { startupTaint } from "../controllers/startup-taint.js";
import { ownSecret, pluggedSecret, stateMap } from "../ca/secret-keys.js";
import { meshResources } from "../sources/kube/resources.js";
import { labelsOf, nameOf, type Component, type KubeObject } from "./objects.js";
import type { ManifestValues } from "./values.js";

interface Rule {
  readonly apiGroups: readonly string[];
  readonly resources: readonly string[];
  readonly resourceNames?: readonly string[];
  readonly verbs: readonly string[];
}

const rbac = "rbac.authorization.k8s.io/v1";
const apiGroup = "rbac.authorization.k8s.io";

const read = ["get", "list", "watch"];

/** One rule for each API group of what the model is made of; of kinds that everybody uses, the names that are read. */
function readRules(): Rule[] {
  const byGroup = new Map<string, string[]>();
  const named: Rule[] = [];
  for (const { group, plural, only } of meshResources()) {
    if (only === undefined) byGroup.set(group, [...(byGroup.get(group) ?? []), plural]);
    else {
      const resourceNames = only.map(({ name }) => name);
      named.push({ apiGroups: [group], resources: [plural], resourceNames, verbs: read });
    }
  }
  const whole = [...byGroup].map(([group, resources]) => ({
    apiGroups: [group],
    resources: resources.sort(),
    verbs: read,
  }));
  return [...whole, ...named];
}

/** Of the whole cluster: what is read, and the three things that are written. */
const controlPlaneRules = (): readonly Rule[] => [
  ...readRules(),
  // Who calls.
  { apiGroups: ["authentication.k8s.io"], resources: ["tokenreviews"], verbs: ["create"] },
  // The roots in every namespace, by server-side apply: no other ConfigMap can be read or written.
  {
    apiGroups: [""],
    resources: ["configmaps"],
    resourceNames: [...rootConfigMaps],
    verbs: ["get", "list", "watch", "create", "patch"],
  },
  // The startup taint; the ValidatingAdmissionPolicy below lets it change nothing else.
  { apiGroups: [""], resources: ["nodes"], verbs: ["patch"] },
];

/** In the mesh's own namespace: the CA's keys. */
const keyRules: readonly Rule[] = [
  { apiGroups: [""], resources: ["secrets"], resourceNames: [ownSecret, pluggedSecret], verbs: ["get"] },
  { apiGroups: [""], resources: ["secrets"], resourceNames: [ownSecret], verbs: ["update"] },
  { apiGroups: [""], resources: ["configmaps"], resourceNames: [stateMap], verbs: ["get", "update"] },
  // What is made cannot be limited by its name.
  { apiGroups: [""], resources: ["secrets", "configmaps"], verbs: ["create"] },
];

/** An agent reads pods and namespaces, and writes nothing. */
const nodeRules: readonly Rule[] = [
  { apiGroups: [""], resources: ["pods", "namespaces"], verbs: ["list", "watch"] },
];

function bound(
  component: Component,
  { namespace }: ManifestValues,
  rules: readonly Rule[],
  within?: string,
): KubeObject[] {
  const kind = within === undefined ? "ClusterRole" : "Role";
  const name = within === undefined ? `${nameOf[component]}-${namespace}` : nameOf[component];
  const metadata = { name, ...(within !== undefined && { namespace: within }), labels: labelsOf(component) };
  return [
    { apiVersion: rbac, kind, metadata, rules },
    {
      apiVersion: rbac,
      kind: `${kind}Binding`,
      metadata,
      roleRef: { apiGroup, kind, name },
      subjects: [{ kind: "ServiceAccount", name: nameOf[component], namespace }],
    },
  ];
}

function serviceAccount(component: Component, { namespace }: ManifestValues): KubeObject {
  return {
    apiVersion: "v1",
    kind: "ServiceAccount",
    metadata: { name: nameOf[component], namespace, labels: labelsOf(component) },
  };
}

/** What RBAC cannot say: of a node, the control plane may take its own taint off, and nothing else. */
function nodePolicy({ namespace }: ManifestValues): KubeObject[] {
  const name = `meltemi-startup-taint-${namespace}`;
  const account = `system:serviceaccount:${namespace}:${nameOf["control-plane"]}`;
  const others = (object: string): string =>
    `${object}.spec.?taints.orValue([]).filter(taint, taint.key != "${startupTaint}")`;
  const metadata = { name, labels: labelsOf("control-plane") };
  return [
    {
      apiVersion: "admissionregistration.k8s.io/v1",
      kind: "ValidatingAdmissionPolicy",
      metadata,
      spec: {
        failurePolicy: "Fail",
        matchConstraints: {
          resourceRules: [
            { apiGroups: [""], apiVersions: ["v1"], operations: ["UPDATE"], resources: ["nodes"] },
          ],
        },
        matchConditions: [{ name: "by-meltemi", expression: `request.userInfo.username == "${account}"` }],
        validations: [
          {
            expression: `${others("object")} == ${others("oldObject")}`,
            message: `Meltemi may remove the taint ${startupTaint} and no other`,
          },
          {
            expression: `!object.spec.?taints.orValue([]).exists(taint, taint.key == "${startupTaint}")`,
            message: `Meltemi may remove the taint ${startupTaint}, and not set it`,
          },
          {
            expression: [
              "object.metadata.?labels == oldObject.metadata.?labels",
              "object.metadata.?annotations == oldObject.metadata.?annotations",
              "object.metadata.?ownerReferences == oldObject.metadata.?ownerReferences",
              "object.metadata.?finalizers == oldObject.metadata.?finalizers",
              "object.spec.?unschedulable == oldObject.spec.?unschedulable",
              "object.spec.?podCIDR == oldObject.spec.?podCIDR",
              "object.spec.?podCIDRs == oldObject.spec.?podCIDRs",
              "object.spec.?providerID == oldObject.spec.?providerID",
              "object.spec.?configSource == oldObject.spec.?configSource",
              "object.spec.?externalID == oldObject.spec.?externalID",
            ].join(" && "),
            message: "Meltemi may change nothing of a node but its own taint",
          },
        ],
      },
    },
    {
      apiVersion: "admissionregistration.k8s.io/v1",
      kind: "ValidatingAdmissionPolicyBinding",
      metadata,
      spec: { policyName: name, validationActions: ["Deny"] },
    },
  ];
}

export function rights(values: ManifestValues): KubeObject[] {
  return [
    serviceAccount("control-plane", values),
    serviceAccount("node", values),
    ...bound("control-plane", values, controlPlaneRules()),
    ...bound("control-plane", values, keyRules, values.namespace),
    ...bound("node", values, nodeRules),
    ...nodePolicy(values),
  ];
}
