import { Counter, Gauge, Histogram, type Registry } from "prom-client";

/** The discovery server's metrics, registered where the process serves them. */
export class DiscoveryMetrics {
  readonly streams: Gauge;
  readonly pushes: Counter<"type">;
  readonly pushBytes: Counter<"type">;
  readonly nacks: Counter<"type">;
  readonly refused: Counter<"reason">;
  /** From the change's arrival in the source to the hand-over of its response to the transport. */
  readonly pushSeconds: Histogram<"type">;

  constructor(registry: Registry) {
    const registers = [registry];
    const labelNames = ["type"] as const;
    this.streams = new Gauge({ name: "meltemi_xds_streams", help: "Open discovery streams.", registers });
    this.pushes = new Counter({
      name: "meltemi_xds_pushes_total",
      help: "Discovery responses sent.",
      labelNames,
      registers,
    });
    this.pushBytes = new Counter({
      name: "meltemi_xds_push_bytes_total",
      help: "Bytes of discovery responses.",
      labelNames,
      registers,
    });
    this.nacks = new Counter({
      name: "meltemi_xds_client_nacks_total",
      help: "Discovery responses that a client refused.",
      labelNames,
      registers,
    });
    this.refused = new Counter({
      name: "meltemi_xds_refused_total",
      help: "Discovery streams refused or ended by the server.",
      labelNames: ["reason"],
      registers,
    });
    this.pushSeconds = new Histogram({
      name: "meltemi_xds_push_seconds",
      help: "Time from a change to its response being handed to the transport.",
      labelNames,
      buckets: [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5],
      registers,
    });
  }
}
