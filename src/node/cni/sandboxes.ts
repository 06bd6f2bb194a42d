import { z } from "zod";
import { MeltemiError, messageOf } from "../../domain/error.js";
import type { Logger } from "../../platform/logger.js";
import type { RecordFile } from "../enrol/captured.js";
import type { Sandbox } from "../enrol/desired.js";
import type { Attachment, AttachmentId, Collection } from "./requests.js";

const recordShape = z.object({
  version: z.literal(1),
  attachments: z.array(
    z.object({
      containerId: z.string(),
      interface: z.string(),
      network: z.string(),
      key: z.string(),
      podUid: z.string(),
      netns: z.string(),
      netnsInode: z.number(),
      ips: z.array(z.string()),
    }),
  ),
});

/** Where the enrolments learn of a pod's sandbox (enrol/node-pods.ts). */
export interface Placement {
  place(key: string, sandbox: Sandbox | undefined): void;
}

export interface SandboxesDependencies {
  readonly file: RecordFile;
  readonly placement: Placement;
  /** Whether the path still leads to the namespace of that inode. */
  readonly exists: (netns: string, inode: number) => boolean;
  readonly log: Logger;
}

const idOf = ({ containerId, interface: name, network }: AttachmentId): string =>
  `${containerId} ${name} ${network}`;

/**
 * The sandboxes that the CNI plugin told of and that have not been taken down, also over the agent's own restarts:
 * the runtime tells each only once. The record lies in the run directory, as namespaces do not outlive a reboot.
 */
export class Sandboxes {
  /** In the order of their telling: of two containers of one pod the later is the pod's. */
  readonly #attachments = new Map<string, Attachment>();
  #writing: Promise<void> = Promise.resolve();
  /** A write that has not begun: it will have what changes until then. */
  #queued: Promise<void> | undefined;

  constructor(private readonly dependencies: SandboxesDependencies) {}

  /** Places what an earlier agent was told of and what is still there. A record that cannot be read is none: its pods are retried or found gone. */
  async load(): Promise<void> {
    const { file, log } = this.dependencies;
    const text = await file.read();
    if (text === undefined) return;
    let record: z.infer<typeof recordShape>;
    try {
      record = recordShape.parse(JSON.parse(text));
    } catch (error) {
      log.error("record of sandboxes not read", { error: messageOf(error) });
      return;
    }
    for (const one of record.attachments) this.#attachments.set(idOf(one), one);
    await this.prune();
    for (const key of new Set([...this.#attachments.values()].map((one) => one.key))) this.#place(key);
  }

  /** Tells the enrolments of a sandbox. Twice is as good as once. */
  async add(attachment: Attachment): Promise<void> {
    const { exists } = this.dependencies;
    if (!exists(attachment.netns, attachment.netnsInode)) {
      throw new MeltemiError(
        "conflict",
        `there is no network namespace with inode ${attachment.netnsInode} at ${attachment.netns}`,
        { hint: "the agent must see the runtime's namespaces at the same paths as the runtime does" },
      );
    }
    const id = idOf(attachment);
    this.#attachments.delete(id);
    this.#attachments.set(id, attachment);
    this.#place(attachment.key);
    await this.#save();
  }

  /** Forgets an attachment; resolves with it, or with undefined where there was none (a second DEL, or one without ADD). */
  async remove(id: AttachmentId): Promise<Attachment | undefined> {
    const present = this.#attachments.get(idOf(id));
    if (present === undefined) return undefined;
    this.#attachments.delete(idOf(id));
    this.#place(present.key);
    await this.#save();
    return present;
  }

  /** Forgets what the runtime no longer knows of a network. */
  async collect({ network, valid }: Collection): Promise<number> {
    const known = new Set(valid.map((one) => idOf({ ...one, network })));
    return this.#removeAll((one) => one.network === network && !known.has(idOf(one)));
  }

  /** Forgets those whose namespace is gone without a DEL that reached an agent. */
  prune(): Promise<number> {
    const { exists } = this.dependencies;
    return this.#removeAll((one) => !exists(one.netns, one.netnsInode));
  }

  async #removeAll(isGone: (attachment: Attachment) => boolean): Promise<number> {
    const gone = [...this.#attachments.values()].filter(isGone);
    for (const one of gone) {
      this.#attachments.delete(idOf(one));
      this.dependencies.log.info("sandbox gone without a word", { pod: one.key, netns: one.netns });
    }
    for (const key of new Set(gone.map((one) => one.key))) this.#place(key);
    if (gone.length > 0) await this.#save();
    return gone.length;
  }

  /** The pod's latest container, with the addresses of all its interfaces. */
  #place(key: string): void {
    const ofPod = [...this.#attachments.values()].filter((one) => one.key === key);
    const last = ofPod.at(-1);
    if (last === undefined) {
      this.dependencies.placement.place(key, undefined);
      return;
    }
    const ips = ofPod.filter((one) => one.containerId === last.containerId).flatMap((one) => one.ips);
    const { podUid, netns, netnsInode } = last;
    this.dependencies.placement.place(key, { podUid, netns, netnsInode, ips: [...new Set(ips)] });
  }

  /** One write for all that wait. */
  #save(): Promise<void> {
    if (this.#queued !== undefined) return this.#queued;
    this.#queued = this.#writing.then(() => {
      this.#queued = undefined;
      return this.#write();
    });
    this.#writing = this.#queued;
    return this.#writing;
  }

  /** Without the record the next agent does not know where the pods are, and leaves them captured. */
  async #write(): Promise<void> {
    const { file, log } = this.dependencies;
    const attachments = [...this.#attachments.values()];
    try {
      if (attachments.length === 0) await file.remove();
      else await file.write(`${JSON.stringify({ version: 1, attachments })}\n`);
    } catch (error) {
      log.error("sandboxes not recorded", { error: messageOf(error) });
    }
  }
}
