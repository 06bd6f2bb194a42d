/** All objects of an installation: one source for `meltemi manifest generate`, for installing and for a chart. */
import { stringify } from "yaml";
import { controlPlane } from "./control-plane.js";
import { nodes } from "./node.js";
import { partLabels, type KubeObject } from "./objects.js";
import { readProfile } from "./profiles.js";
import { rights } from "./rbac.js";
import type { ManifestValues } from "./values.js";

/** In the order in which they can be applied. */
export function renderObjects(values: ManifestValues): readonly KubeObject[] {
  return [
    {
      apiVersion: "v1",
      kind: "Namespace",
      metadata: {
        name: values.namespace,
        labels: {
          ...partLabels,
          // The nodes' pods have the host's network and directories; nobody else is to run here.
          "pod-security.kubernetes.io/enforce": "privileged",
          "pod-security.kubernetes.io/audit": "privileged",
          "pod-security.kubernetes.io/warn": "privileged",
        },
      },
    },
    ...rights(values),
    ...controlPlane(values),
    ...nodes(values, { agent: readProfile("agent"), "data-plane": readProfile("data-plane") }),
  ];
}

/** As one YAML text, a document each. */
export function renderYaml(objects: readonly KubeObject[]): string {
  return objects
    .map((object) => stringify(object, { lineWidth: 0, aliasDuplicateObjects: false }))
    .join("---\n");
}
