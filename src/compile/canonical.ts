/** The names under which telemetry knows a workload, by Istio's published labels and rules. */
import type { PodObject } from "../domain/objects.js";
import type { CompiledWorkload } from "./compiled.js";

type Labels = ReadonlyMap<string, string>;

function first(labels: Labels, keys: readonly string[]): string | undefined {
  for (const key of keys) {
    const value = labels.get(key);
    if (value !== undefined && value !== "") return value;
  }
  return undefined;
}

export function canonicalName(labels: Labels, workloadName: string): string {
  return first(labels, ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]) ?? workloadName;
}

export function canonicalRevision(labels: Labels): string {
  return (
    first(labels, ["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]) ?? "latest"
  );
}

/** Kubernetes' alphabet for generated suffixes has neither vowels nor what looks like them. */
const templateHash = /-[bcdfghjklmnpqrstvwxz2456789]{5,10}$/;
const scheduledJob = /^(.+)-\d{8,10}$/;

/** The name and type of what made the pod: the Deployment behind a ReplicaSet, the CronJob behind a Job. */
export function workloadOf(pod: PodObject): Pick<CompiledWorkload, "workloadName" | "workloadType"> {
  const { owner } = pod;
  switch (owner?.kind) {
    case "ReplicaSet": {
      const hash = pod.meta.labels.get("pod-template-hash");
      const suffix = hash === undefined ? undefined : `-${hash}`;
      const known = suffix !== undefined && owner.name.endsWith(suffix);
      const name = known ? owner.name.slice(0, -suffix.length) : owner.name.replace(templateHash, "");
      return { workloadName: name, workloadType: "deployment" };
    }
    case "Deployment":
      return { workloadName: owner.name, workloadType: "deployment" };
    case "Job": {
      const cron = scheduledJob.exec(owner.name)?.[1];
      return cron === undefined
        ? { workloadName: owner.name, workloadType: "job" }
        : { workloadName: cron, workloadType: "cronjob" };
    }
    case "CronJob":
      return { workloadName: owner.name, workloadType: "cronjob" };
    default:
      return { workloadName: pod.meta.name, workloadType: "pod" };
  }
}
