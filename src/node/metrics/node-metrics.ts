import { Counter, Gauge, Registry } from "prom-client";
import { dropReasons, passReasons, type Counts, type LayerCounts } from "../capture/mode.js";
import type { EnrolledPod } from "../enrol/desired.js";
import type { CaptureObserver } from "../enrol/pod-layers.js";

/** The sockets whose refused peers are counted. */
export type SocketName = "zds" | "xds" | "keys" | "node-admin" | "node-control" | "cni";

/** What the gauges read when they are scraped. */
export interface NodeFigures {
  readonly podsByState: () => ReadonlyMap<string, number>;
  readonly capture: () => { readonly mode: string; readonly guard: string } | undefined;
  readonly dataPlanes: () => number;
  readonly controlPlaneConnected: () => boolean;
  readonly lastGoodAgeSeconds: () => number | undefined;
}

/** The agent's own metrics. */
export class NodeMetrics implements CaptureObserver {
  readonly registry = new Registry();
  readonly #peersRefused: Counter<"socket">;
  readonly #peersMalformed: Counter<"socket">;
  readonly #dropped: Counter<"reason">;
  readonly #passed: Counter<"reason">;
  readonly #repairs: Counter<"part">;
  readonly #certificates: Counter<"result">;
  readonly #restarts: Counter;
  readonly #cni: Counter<"verb" | "result">;
  /** The kernel's counters as read last, by pod and layer: they begin anew when its rules are loaded anew. */
  readonly #read = new Map<string, Record<keyof LayerCounts, Map<string, number>>>();

  constructor(figures: NodeFigures) {
    const registers = [this.registry];
    this.#peersRefused = new Counter({
      name: "meltemi_peer_refused_total",
      help: "Connections to the agent's sockets closed because of the peer's credentials.",
      labelNames: ["socket"],
      registers,
    });
    this.#peersMalformed = new Counter({
      name: "meltemi_peer_malformed_total",
      help: "Messages on the agent's sockets that are none, or ask for what is not given.",
      labelNames: ["socket"],
      registers,
    });
    this.#dropped = new Counter({
      name: "meltemi_capture_dropped_total",
      help: "Packets of captured pods dropped by capture.",
      labelNames: ["reason"],
      registers,
    });
    this.#passed = new Counter({
      name: "meltemi_capture_passed_total",
      help: "Packets of captured pods that capture let pass beside the data plane.",
      labelNames: ["reason"],
      registers,
    });
    this.#repairs = new Counter({
      name: "meltemi_capture_repairs_total",
      help: "Parts of a pod's capture found missing or changed, and put right.",
      labelNames: ["part"],
      registers,
    });
    this.#certificates = new Counter({
      name: "meltemi_certificate_relays_total",
      help: "Certificate requests of the data plane passed to the CA.",
      labelNames: ["result"],
      registers,
    });
    this.#restarts = new Counter({
      name: "meltemi_data_plane_restarts_total",
      help: "Ends of the data plane that nobody asked for.",
      registers,
    });
    this.#cni = new Counter({
      name: "meltemi_cni_requests_total",
      help: "Requests of the CNI plugin by what was answered.",
      labelNames: ["verb", "result"],
      registers,
    });
    for (const reason of dropReasons) this.#dropped.inc({ reason }, 0);
    for (const reason of passReasons) this.#passed.inc({ reason }, 0);
    addGauges(this.registry, figures);
  }

  peerRefused(socket: SocketName): void {
    this.#peersRefused.inc({ socket });
  }

  peerMalformed(socket: SocketName): void {
    this.#peersMalformed.inc({ socket });
  }

  certificateRelayed(result: "issued" | "refused" | "failed"): void {
    this.#certificates.inc({ result });
  }

  cniAnswered(verb: string, result: string): void {
    this.#cni.inc({ verb, result });
  }

  dataPlaneRestarted(): void {
    this.#restarts.inc();
  }

  repaired(_pod: EnrolledPod, broken: readonly string[]): void {
    for (const part of broken) this.#repairs.inc({ part });
  }

  /** A part of the host's own capture, which is of no one pod. */
  hostRepaired(part: string): void {
    this.#repairs.inc({ part });
  }

  counted(pod: EnrolledPod, counts: LayerCounts): void {
    const last = this.#read.get(pod.key) ?? {
      redirection: new Map<string, number>(),
      guard: new Map<string, number>(),
    };
    this.#add(counts.redirection, last.redirection);
    this.#add(counts.guard, last.guard);
    this.#read.set(pod.key, last);
  }

  #add(counts: Counts, last: Map<string, number>): void {
    for (const [reason, packets] of counts) {
      const before = last.get(reason) ?? 0;
      const more = packets >= before ? packets - before : packets;
      const passes = passReasons.some((one) => one === reason);
      if (more > 0) (passes ? this.#passed : this.#dropped).inc({ reason }, more);
      last.set(reason, packets);
    }
  }

  forget(pod: EnrolledPod): void {
    this.#read.delete(pod.key);
  }
}

function addGauges(registry: Registry, figures: NodeFigures): void {
  const registers = [registry];
  new Gauge({
    name: "meltemi_node_pods",
    help: "Pods of the node by their state.",
    labelNames: ["state"],
    registers,
    collect() {
      this.reset();
      for (const [state, count] of figures.podsByState()) this.set({ state }, count);
    },
  });
  new Gauge({
    name: "meltemi_capture_info",
    help: "1 for the capture that the node has chosen for new pods.",
    labelNames: ["mode", "guard"],
    registers,
    collect() {
      this.reset();
      const capture = figures.capture();
      if (capture !== undefined) this.set(capture, 1);
    },
  });
  new Gauge({
    name: "meltemi_node_data_planes",
    help: "Data planes connected over ZDS.",
    registers,
    collect() {
      this.set(figures.dataPlanes());
    },
  });
  new Gauge({
    name: "meltemi_node_control_plane_connected",
    help: "1 while the agent has a discovery stream to the control plane.",
    registers,
    collect() {
      this.set(figures.controlPlaneConnected() ? 1 : 0);
    },
  });
  new Gauge({
    name: "meltemi_node_last_good_age_seconds",
    help: "Age of the last good state that the agent started from; absent where there was none.",
    registers,
    collect() {
      this.reset();
      const age = figures.lastGoodAgeSeconds();
      if (age !== undefined) this.set(age);
      else this.remove();
    },
  });
  new Gauge({
    name: "meltemi_node_resident_memory_bytes",
    help: "Resident memory of the agent.",
    registers,
    collect() {
      this.set(process.memoryUsage.rss());
    },
  });
}
