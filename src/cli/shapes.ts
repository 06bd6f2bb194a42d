/** The answers of the admin sockets that commands read (docs/node-interfaces.md). Unknown fields pass through. */
import { z } from "zod";

const optionalText = z.string().nullish();
const optionalNumber = z.number().nullish();

export const podShape = z.looseObject({
  uid: z.string(),
  namespace: z.string(),
  name: z.string(),
  ip: optionalText,
  service_account: optionalText,
  state: z.string(),
  reason: optionalText,
  mode: optionalText,
});

export const nodeStatusShape = z.looseObject({
  node: z.string(),
  version: optionalText,
  pods: z.array(podShape),
  capture: z.looseObject({ mode: z.string(), guard: z.string(), reason: z.string() }).optional(),
  control_plane: z.looseObject({
    connected: z.boolean(),
    address: optionalText,
    since: optionalText,
    last_error: optionalText,
  }),
  data_plane: z.looseObject({
    pid: optionalNumber,
    ready: z.boolean(),
    restarts: z.number(),
    since: optionalText,
    last_exit: optionalText,
  }),
  certificates: optionalNumber,
});

export const controlStatusShape = z.looseObject({
  version: z.string(),
  config: z.string(),
  since: z.string(),
  trust_domain: z.string(),
  cluster_id: z.string(),
  ready: z.boolean(),
  objects: z.record(z.string(), z.number()),
  nodes: z.array(
    z.looseObject({ node: z.string(), pods: z.number(), enrolled: z.number(), connected: z.boolean() }),
  ),
  streams: z.number(),
  problems: z.number(),
  ca: z.looseObject({ phase: z.string(), version: z.number() }),
});

export const workloadShape = z.looseObject({
  uid: z.string(),
  namespace: z.string(),
  name: z.string(),
  ips: z.array(z.string()),
  node: optionalText,
  service_account: z.string(),
  identity: optionalText,
  protocol: z.string(),
  healthy: z.boolean(),
  services: z.array(z.string()),
  policies: z.array(z.string()),
});

export const serviceShape = z.looseObject({
  namespace: z.string(),
  name: z.string(),
  hostname: z.string(),
  addresses: z.array(z.string()),
  ports: z.array(z.looseObject({ port: z.number(), target_port: z.number(), protocol: z.string() })),
  endpoints: z.number(),
  healthy_endpoints: z.number(),
  headless: z.boolean(),
});

export const policyShape = z.looseObject({
  kind: z.string(),
  namespace: z.string(),
  name: z.string(),
  scope: z.string(),
  action: z.string(),
  dry_run: z.boolean(),
  status: z.array(
    z.looseObject({ type: z.string(), status: z.string(), reason: z.string(), message: z.string() }),
  ),
});

export const problemShape = z.looseObject({
  severity: z.enum(["error", "warning", "unsupported"]),
  object: z
    .object({ apiVersion: z.string(), kind: z.string(), namespace: z.string(), name: z.string() })
    .optional(),
  location: z.string().optional(),
  path: z.string(),
  value: z.string().optional(),
  message: z.string(),
  hint: z.string().optional(),
});

const caCertificateShape = z.looseObject({
  subject: z.string(),
  serial: z.string(),
  not_before: z.string(),
  not_after: z.string(),
});

export const caShape = z.looseObject({
  trust_domain: z.string(),
  version: z.number(),
  phase: z.string(),
  since: z.string(),
  roots: z.array(caCertificateShape),
  issuing: caCertificateShape,
  waiting: z.array(
    z.looseObject({ node: z.string(), identity: z.string(), version: z.number(), not_after: z.string() }),
  ),
  live: z.number(),
  issued: z.number(),
  refused_identities: z.array(z.string()),
});

export const certificateShape = z.looseObject({
  identity: z.string(),
  state: z.string(),
  error: optionalText,
  chain: z.array(z.looseObject({ serial: z.string(), not_before: z.string(), not_after: z.string() })),
  roots: z.array(z.looseObject({ serial: z.string(), not_after: optionalText })),
  renew_at: optionalText,
  kept: z.boolean().optional(),
});

export const connectionShape = z.looseObject({
  id: z.union([z.string(), z.number()]),
  direction: z.string(),
  protocol: z.string(),
  src: optionalText,
  dst: optionalText,
  src_identity: optionalText,
  dst_identity: optionalText,
  src_workload: optionalText,
  dst_workload: optionalText,
  service: optionalText,
  opened_at: optionalText,
  bytes_sent: optionalNumber,
  bytes_received: optionalNumber,
  policy: optionalText,
});
