/** A case of the behavioural suite: run over every redirection mode and both address families. */
import type { LabPod } from "../../../../demo/lab/topology.js";
import type { Mode } from "../lab/kernel.js";
import type { Lab } from "../lab/lab.js";

export type Family = 4 | 6;

/** Where a case runs: one mesh, one redirection mode, one address family. */
export interface Place {
  readonly lab: Lab;
  readonly mode: Mode;
  readonly family: Family;
  /** A pod's address in this family. */
  ip(pod: string): string;
  /** A node's address on its pods' bridge, in this family. */
  bridgeIp(node: string): string;
  /** `ADDRESS:PORT`, as URLs and the kit write it. */
  at(pod: string, port: number): string;
  pod(name: string): LabPod;
  /** The link address of a pod, or of a node on its pods' bridge. */
  mac(name: string): string;
}

export interface Case {
  readonly name: string;
  /** Pods whose redirection the case is about: the mode in force there is read from the kernel before it. */
  readonly captured: readonly string[];
  /** It fails where the pod `client` has no redirection, which a counter-test tries. */
  readonly provesRedirection?: true;
  run(place: Place): Promise<void>;
}
