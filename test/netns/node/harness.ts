import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Meta, NamespaceObject, PodObject } from "../../../src/domain/objects.js";
import type { SourceEvent } from "../../../src/domain/source-event.js";
import { assembleCaptures } from "../../../src/node/capture/assembly.js";
import type { Captures } from "../../../src/node/capture/captures.js";
import type { RedirectMode } from "../../../src/node/capture/support.js";
import { assembleEnrolment } from "../../../src/node/enrol/assembly.js";
import type { NodePods } from "../../../src/node/enrol/node-pods.js";
import { ZdsServer } from "../../../src/node/zds/server.js";
import { systemClock } from "../../../src/platform/clock.js";
import { systemFiles } from "../../../src/platform/files.js";
import { createLogger } from "../../../src/platform/logger.js";
import { loadNative } from "../../../src/platform/native.js";
import { systemRandom } from "../../../src/platform/random.js";

const meta = (namespace: string, name: string, labels: Record<string, string>): Meta => ({
  apiVersion: "v1",
  namespace,
  name,
  uid: `uid-${name}`,
  generation: 1,
  labels: new Map(Object.entries(labels)),
  annotations: new Map(),
});

export const meshNamespace = (
  name: string,
  labels = { "istio.io/dataplane-mode": "ambient" } as Record<string, string>,
): NamespaceObject => ({
  kind: "Namespace",
  meta: meta("", name, labels),
});

export function pod(name: string, ip: string, netns: string, fields: Partial<PodObject> = {}): PodObject {
  return {
    kind: "Pod",
    meta: meta("default", name, {}),
    nodeName: "n1",
    serviceAccount: name,
    hostNetwork: false,
    ips: [ip],
    netns,
    phase: "Running",
    ready: true,
    terminating: false,
    containerNames: ["app"],
    ports: [],
    owner: undefined,
    ...fields,
  };
}

/** Enrolment, capture and ZDS of one agent, over the real kernel, without source, relay and supervision. */
export interface Core {
  readonly directory: string;
  readonly captures: Captures;
  readonly pods: NodePods;
  readonly zds: ZdsServer;
  readonly repairs: string[];
  readonly drops: Map<string, number>;
  apply(...events: SourceEvent[]): void;
  /** As a process that is killed: sockets close, nothing else is touched. */
  kill(): Promise<void>;
}

export async function startCore(
  options: {
    directory?: string;
    verifyIntervalMs?: number;
    captureGraceMs?: number;
    redirectMode?: RedirectMode;
    dataPlaneRegisters?: boolean;
  } = {},
): Promise<Core> {
  const directory = options.directory ?? (await mkdtemp(join(tmpdir(), "meltemi-node-")));
  const native = loadNative();
  const log = createLogger({
    level: "info",
    format: "json",
    clock: systemClock,
    destination: process.stderr,
  });
  const repairs: string[] = [];
  const drops = new Map<string, number>();
  const zds = new ZdsServer({
    clock: systemClock,
    log,
    closeFd: (fd) => native.closeFd(fd),
    admits: () => true,
    ackTimeoutMs: 5000,
    onMalformed: () => undefined,
  });
  const captures = await assembleCaptures(
    {
      node: "n1",
      redirectMode: options.redirectMode ?? "auto",
      bpfDir: join(directory, "bpf"),
      // The fake that stands in for it does not.
      dataPlaneRegisters: options.dataPlaneRegisters ?? false,
      verifyIntervalMs: options.verifyIntervalMs ?? 200,
    },
    {
      native,
      clock: systemClock,
      random: systemRandom,
      log,
      onHostRepair: (part) => repairs.push(part),
    },
  );
  const pods = await assembleEnrolment(
    {
      node: "n1",
      cluster: "Kubernetes",
      recordPath: join(directory, "captured.json"),
      verifyIntervalMs: options.verifyIntervalMs ?? 200,
      watchedIntervalMs: options.verifyIntervalMs ?? 200,
      captureGraceMs: options.captureGraceMs ?? 5_000,
      drainTimeoutMs: 2000,
    },
    {
      native,
      files: systemFiles,
      clock: systemClock,
      random: systemRandom,
      log,
      dataPlanes: zds,
      captures,
      observer: {
        repaired: (_, broken) => repairs.push(...broken),
        counted: (_, { redirection, guard }) => {
          for (const [reason, packets] of [...redirection, ...guard])
            drops.set(reason, Math.max(packets, drops.get(reason) ?? 0));
        },
        forget: () => undefined,
      },
    },
  );
  const end = new AbortController();
  const probes = captures.hostProbes.run(end.signal);
  const serving = pods.firstRound.then(() =>
    zds.run(native.PacketListener.bind(join(directory, "zds.sock"), 0o600), end.signal),
  );
  return {
    directory,
    captures,
    pods,
    zds,
    repairs,
    drops,
    apply: (...events) => pods.take({ events, problems: [] }),
    kill: async () => {
      await pods.abandonAll();
      end.abort();
      await Promise.all([serving, probes]);
    },
  };
}
