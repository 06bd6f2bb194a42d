/** What the CNI plugin asks (native/crates/cni/src/event.rs): ambient's `/cmdadd`, with fields of our own beside it. */
import { z } from "zod";
import { MeltemiError } from "../../domain/error.js";
import { canonicalIp } from "../../domain/ip.js";
import { runPath } from "../run-path.js";

const text = z.string().min(1).max(4096);

const attachmentShape = z.object({
  PodName: text,
  PodNamespace: text,
  PodUID: z.string().max(256).nullish(),
  ContainerID: text,
  IfName: text,
  Network: text,
});

const sandboxShape = attachmentShape.extend({
  Netns: text.refine((path) => path.startsWith("/"), "expected an absolute path"),
  NetnsInode: z.number().int().positive(),
  IPs: z.array(z.object({ Address: z.object({ IP: z.string() }) })).max(64),
});

const collectionShape = z.object({
  Network: text,
  Valid: z.array(z.object({ ContainerID: text, IfName: text })),
});

/** One interface of one sandbox in one network. */
export interface AttachmentId {
  readonly containerId: string;
  readonly interface: string;
  readonly network: string;
}

/** A sandbox's interface, and the pod whose it is. */
export interface Attachment extends AttachmentId {
  /** `NAMESPACE/NAME` of the pod. */
  readonly key: string;
  /** Kubernetes' uid; empty where the runtime does not tell. */
  readonly podUid: string;
  readonly netns: string;
  readonly netnsInode: number;
  readonly ips: readonly string[];
}

export interface Collection {
  readonly network: string;
  readonly valid: readonly { readonly containerId: string; readonly interface: string }[];
}

/** @throws MeltemiError `bad_input` naming the field */
function parse<T>(shape: z.ZodType<T>, body: Buffer): T {
  let value: unknown;
  try {
    value = JSON.parse(body.toString("utf8"));
  } catch (error) {
    throw new MeltemiError("bad_input", "the request's body is not JSON", { cause: error });
  }
  const result = shape.safeParse(value);
  if (result.success) return result.data;
  const problems = result.error.issues.map(({ path, message }) => `${path.join(".") || "body"}: ${message}`);
  throw new MeltemiError("bad_input", `the request is not understood: ${problems.join("; ")}`, {
    hint: "plugin and agent are to be of the same release",
  });
}

export function readAttachmentId(body: Buffer): AttachmentId & { readonly key: string } {
  const { PodName, PodNamespace, ContainerID, IfName, Network } = parse(attachmentShape, body);
  return {
    key: `${PodNamespace}/${PodName}`,
    containerId: ContainerID,
    interface: IfName,
    network: Network,
  };
}

export function readAttachment(body: Buffer): Attachment {
  const { PodUID, Netns, NetnsInode, IPs } = parse(sandboxShape, body);
  const ips = IPs.map(({ Address }, index) => {
    const ip = canonicalIp(Address.IP);
    if (ip === undefined)
      throw new MeltemiError("bad_input", `IPs.${index}.Address.IP is "${Address.IP}", which is no address`);
    return ip;
  });
  return {
    ...readAttachmentId(body),
    podUid: PodUID ?? "",
    netns: runPath(Netns),
    netnsInode: NetnsInode,
    ips,
  };
}

export function readCollection(body: Buffer): Collection {
  const { Network, Valid } = parse(collectionShape, body);
  return {
    network: Network,
    valid: Valid.map(({ ContainerID, IfName }) => ({ containerId: ContainerID, interface: IfName })),
  };
}
