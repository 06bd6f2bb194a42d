/** A Kubernetes object as it is written. */
export interface KubeObject {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly labels?: Readonly<Record<string, string>>;
    readonly annotations?: Readonly<Record<string, string>>;
  };
  readonly [field: string]: unknown;
}

export type Component = "control-plane" | "node";

/** Labels of everything that an installation consists of. */
export const partLabels = { "app.kubernetes.io/part-of": "meltemi" } as const;

/** Labels by which a component's pods are selected. */
export const selectorOf = (component: Component): Readonly<Record<string, string>> => ({
  "app.kubernetes.io/name": "meltemi",
  "app.kubernetes.io/component": component,
});

export const labelsOf = (component: Component): Readonly<Record<string, string>> => ({
  ...selectorOf(component),
  ...partLabels,
});

/** Names of the service accounts, of the workloads and of their cluster-wide roles. */
export const nameOf = { "control-plane": "meltemi-control-plane", node: "meltemi-node" } as const;
