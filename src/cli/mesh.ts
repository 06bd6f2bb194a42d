/** `workloads`, `services`, `policies`: what the control plane made of the user's objects. */
import { z } from "zod";
import { ask, controlPlaneOf } from "./ask.js";
import { policyHits } from "./policy-hits.js";
import type { Target } from "./run-directory.js";
import { policyShape, serviceShape, workloadShape } from "./shapes.js";
import { listCell, orDash } from "./table.js";
import type { View } from "./view.js";

export interface MeshFilter {
  readonly namespace: string | undefined;
  readonly node: string | undefined;
}

const inNamespace = (filter: MeshFilter) => (one: { readonly namespace: string }) =>
  filter.namespace === undefined || one.namespace === filter.namespace;

export async function workloadsView(target: Target, filter: MeshFilter): Promise<View> {
  const all = await ask(controlPlaneOf(target).admin, "/workloads", z.array(workloadShape));
  const workloads = all
    .filter(inNamespace(filter))
    .filter(({ node }) => filter.node === undefined || node === filter.node);
  return {
    data: workloads,
    sections: [
      {
        columns: [
          ...["namespace", "name", "ip", "node", "service account", "protocol", "healthy", "services"].map(
            (heading) => ({ heading }),
          ),
          { heading: "policies", wide: true },
          { heading: "identity", wide: true },
          { heading: "uid", wide: true },
        ],
        rows: workloads.map((one) => [
          one.namespace,
          one.name,
          listCell(one.ips, 2),
          orDash(one.node),
          orDash(one.service_account),
          one.protocol,
          one.healthy ? "yes" : "no",
          listCell(one.services.map((key) => key.split("/").at(-1)?.split(".").at(0) ?? key)),
          listCell(one.policies),
          orDash(one.identity),
          one.uid,
        ]),
        empty: "No workloads found.",
      },
    ],
    notes: [],
  };
}

export async function servicesView(target: Target, filter: MeshFilter): Promise<View> {
  const services = (await ask(controlPlaneOf(target).admin, "/services", z.array(serviceShape))).filter(
    inNamespace(filter),
  );
  return {
    data: services,
    sections: [
      {
        columns: [
          ...["namespace", "name", "addresses", "ports", "endpoints"].map((heading) => ({ heading })),
          { heading: "hostname", wide: true },
        ],
        rows: services.map((one) => [
          one.namespace,
          one.name,
          one.headless ? "headless" : listCell(one.addresses, 2),
          listCell(
            one.ports.map(({ port, target_port }) =>
              port === target_port ? String(port) : `${port}:${target_port}`,
            ),
            4,
          ),
          `${one.healthy_endpoints}/${one.endpoints}`,
          one.hostname,
        ]),
        empty: "No services found.",
      },
    ],
    notes: [],
  };
}

export async function policiesView(target: Target, filter: MeshFilter): Promise<View> {
  const policies = (await ask(controlPlaneOf(target).admin, "/policies", z.array(policyShape))).filter(
    inNamespace(filter),
  );
  const hits = target.nodes.length === 0 ? undefined : await policyHits(target);
  const counted = policies.map((policy) => ({
    ...policy,
    hits: hits?.get(`${policy.namespace}/${policy.name}`) ?? 0,
  }));
  const summary = (status: z.infer<typeof policyShape>["status"]): string =>
    status.find((one) => one.status !== "True")?.reason ?? status[0]?.reason ?? "-";
  return {
    data: counted,
    sections: [
      {
        columns: [
          ...["namespace", "name", "kind", "action", "scope", "dry run", "status", "hits"].map((heading) => ({
            heading,
          })),
          { heading: "message", wide: true },
        ],
        rows: counted.map((one) => [
          one.namespace,
          one.name,
          one.kind,
          one.action,
          one.scope,
          one.dry_run ? "yes" : "no",
          summary(one.status),
          String(one.hits),
          listCell(one.status.map(({ message }) => message).filter((message) => message !== "")),
        ]),
        empty: "No policies found.",
      },
    ],
    notes: [],
  };
}
