import { defaultEnrolmentRules, type EnrolmentRules } from "../domain/enrolment.js";

/** What the compiler must know beyond the objects. */
export interface CompileConfig {
  readonly trustDomain: string;
  readonly clusterId: string;
  /** The network that workloads are on where nothing else is said; empty for the only one. */
  readonly network: string;
  /** Suffix of service names: `NAME.NAMESPACE.svc.DOMAIN`. */
  readonly domainSuffix: string;
  /** Namespaces whose policies without a selector are the whole mesh's; the first gives its name to what is made for the mesh. */
  readonly rootNamespaces: readonly [string, ...string[]];
  readonly enrolment: EnrolmentRules;
}

export const defaultCompileConfig: CompileConfig = {
  trustDomain: "cluster.local",
  clusterId: "Kubernetes",
  network: "",
  domainSuffix: "cluster.local",
  rootNamespaces: ["istio-system", "meltemi-system"],
  enrolment: defaultEnrolmentRules,
};
