/** The node's container runtime, asked where pods' sandboxes are (CRI). */
import { credentials, Metadata, status, type ServiceError } from "@grpc/grpc-js";
import { z } from "zod";
import { MeltemiError, messageOf } from "../../domain/error.js";
import { canonicalIp } from "../../domain/ip.js";
import {
  PodSandboxState,
  RuntimeServiceClient,
  type PodSandbox,
  type PodSandboxStatusResponse,
} from "../../gen/runtime/v1/runtime.js";
import { runPath } from "../run-path.js";

/** A sandbox that runs, with a network namespace of its own. */
export interface RuntimeSandbox {
  readonly id: string;
  /** `NAMESPACE/NAME` of the pod. */
  readonly key: string;
  readonly podUid: string;
  readonly netns: string;
  readonly ips: readonly string[];
}

const deadlineMs = 10_000;
/** Sandboxes whose status is asked for at once: a runtime answers each from memory. */
const mostQuestions = 8;

const specification = z.object({
  runtimeSpec: z.object({
    linux: z.object({
      namespaces: z.array(z.object({ type: z.string(), path: z.string().optional() })),
    }),
  }),
});

export class ContainerRuntime {
  readonly #client: RuntimeServiceClient;
  /** What a sandbox's status said: it does not change while the sandbox lives. */
  readonly #known = new Map<string, RuntimeSandbox | undefined>();

  constructor(private readonly socket: string) {
    this.#client = new RuntimeServiceClient(`unix:${socket}`, credentials.createInsecure());
  }

  close(): void {
    this.#client.close();
  }

  /** The sandboxes that run, one for each pod: its latest. @throws MeltemiError `unavailable` where the runtime does not answer */
  async sandboxes(): Promise<readonly RuntimeSandbox[]> {
    const latest = new Map<string, PodSandbox>();
    for (const one of await this.#list()) {
      const uid = one.metadata?.uid ?? "";
      const before = latest.get(uid);
      if ((before?.metadata?.attempt ?? -1) < (one.metadata?.attempt ?? 0)) latest.set(uid, one);
    }
    const ids = new Set([...latest.values()].map(({ id }) => id));
    for (const id of this.#known.keys()) if (!ids.has(id)) this.#known.delete(id);
    const unknown = [...latest.values()].filter(({ id }) => !this.#known.has(id));
    const asking = async (): Promise<void> => {
      for (let next = unknown.pop(); next !== undefined; next = unknown.pop())
        this.#known.set(next.id, await this.#look(next));
    };
    await Promise.all(Array.from({ length: mostQuestions }, asking));
    return [...this.#known.values()].filter((one) => one !== undefined);
  }

  async #list(): Promise<readonly PodSandbox[]> {
    const filter = { state: { state: PodSandboxState.SANDBOX_READY } };
    const { items } = await this.#call<{ items: PodSandbox[] }>((deadline, done) =>
      this.#client.listPodSandbox({ filter }, new Metadata(), { deadline }, done),
    );
    // A runtime may ignore the filter.
    return items.filter(({ state }) => state === PodSandboxState.SANDBOX_READY);
  }

  /** Undefined for a sandbox on the host's network, and for one that has gone meanwhile. */
  async #look({ id, metadata }: PodSandbox): Promise<RuntimeSandbox | undefined> {
    let answer: PodSandboxStatusResponse;
    try {
      answer = await this.#call<PodSandboxStatusResponse>((deadline, done) =>
        this.#client.podSandboxStatus(
          { podSandboxId: id, verbose: true },
          new Metadata(),
          { deadline },
          done,
        ),
      );
    } catch (error) {
      if (error instanceof MeltemiError && error.code === "not_found") return undefined;
      throw error;
    }
    const netns = networkNamespace(answer.info["info"] ?? "", this.socket);
    if (netns === undefined || metadata === undefined) return undefined;
    const { ip = "", additionalIps = [] } = answer.status?.network ?? {};
    const ips = [ip, ...additionalIps.map((one) => one.ip)].map(canonicalIp);
    return {
      id,
      key: `${metadata.namespace}/${metadata.name}`,
      podUid: metadata.uid,
      netns,
      ips: ips.filter((one) => one !== undefined),
    };
  }

  #call<T>(
    start: (deadline: number, done: (error: ServiceError | null, answer: T) => void) => unknown,
  ): Promise<T> {
    return new Promise((resolve, reject) => {
      start(Date.now() + deadlineMs, (error, answer) => {
        if (error === null) resolve(answer);
        else
          reject(
            new MeltemiError(
              error.code === status.NOT_FOUND ? "not_found" : "unavailable",
              `the container runtime at ${this.socket} does not answer: ${error.details}`,
              { hint: "--cri-socket names the socket that the kubelet uses, too", cause: error },
            ),
          );
      });
    });
  }
}

/** The path of the sandbox's network namespace, by the runtime's own specification of it; undefined: the host's. */
export function networkNamespace(info: string, socket: string): string | undefined {
  let parsed;
  try {
    parsed = specification.parse(JSON.parse(info));
  } catch (error) {
    throw new MeltemiError(
      "unsupported",
      `the container runtime at ${socket} does not say where a sandbox's network namespace is: ${messageOf(error)}`,
      {
        hint: "containerd and CRI-O tell it (PodSandboxStatus, verbose): with others, the CNI plugin has to",
      },
    );
  }
  const path = parsed.runtimeSpec.linux.namespaces.find(({ type }) => type === "network")?.path;
  return path === undefined || path === "" ? undefined : runPath(path);
}
