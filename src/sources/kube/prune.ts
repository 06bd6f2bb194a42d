/** What is dropped of an object as it comes from the API server, before it is decoded: most of its bytes are nobody's here. */
import { isMapping, type Mapping } from "../decode/fields.js";

/** Names a network namespace of the node: for directories of YAML, whose writer is trusted with the machine. A cluster's users are not. */
const netnsAnnotation = "meltemi.io/netns";
/** Annotations that decide something here; of others only short ones are kept. */
const ours = /(?:^|[./])(?:istio\.io|meltemi\.io|gateway\.networking\.k8s\.io)\//;
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration";
const longestForeignAnnotation = 256;

function pruneAnnotations(annotations: Mapping): Mapping {
  const kept = Object.entries(annotations).filter(
    ([key, value]) =>
      key !== lastApplied &&
      key !== netnsAnnotation &&
      (ours.test(key) || typeof value !== "string" || value.length <= longestForeignAnnotation),
  );
  return Object.fromEntries(kept);
}

/**
 * The object with the API's own bookkeeping left out, and with the kind that items of a list do not repeat. The decoders
 * keep nothing of the rest (a pod's environment, volumes, container states).
 */
export function prune(value: Mapping, apiVersion: string, kind: string): Mapping {
  const { metadata } = value;
  if (!isMapping(metadata)) return { ...value, apiVersion, kind };
  const { managedFields: _, annotations, ...rest } = metadata;
  return {
    ...value,
    apiVersion,
    kind,
    metadata: { ...rest, ...(isMapping(annotations) && { annotations: pruneAnnotations(annotations) }) },
  };
}
