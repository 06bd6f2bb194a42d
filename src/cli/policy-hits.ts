/** How often each policy matched, summed over the nodes' `meltemi_policy_matches_total`. */
import { callUnixHttp } from "../platform/unix-http-client.js";
import type { Target } from "./run-directory.js";

const sample = /^meltemi_policy_matches_total\{([^}]*)\}\s+([0-9.eE+]+)/;
const policyLabel = /(?:^|,)policy="((?:[^"\\]|\\.)*)"/;

/** Adds the samples of one Prometheus text to the sums by `NAMESPACE/NAME`. */
export function addHits(text: string, sums: Map<string, number>): void {
  for (const line of text.split("\n")) {
    const [, labels = "", value = ""] = sample.exec(line) ?? [];
    const policy = policyLabel.exec(labels)?.[1];
    if (policy !== undefined) sums.set(policy, (sums.get(policy) ?? 0) + Number(value));
  }
}

/** Nodes that do not answer are left out: `status` names them. */
export async function policyHits(target: Target): Promise<ReadonlyMap<string, number>> {
  const sums = new Map<string, number>();
  const texts = await Promise.all(
    target.nodes.map(({ admin }) =>
      callUnixHttp({ socketPath: admin, path: "/metrics" }).then(
        ({ status, body }) => (status === 200 ? body.toString() : ""),
        () => "",
      ),
    ),
  );
  for (const text of texts) addHits(text, sums);
  return sums;
}
