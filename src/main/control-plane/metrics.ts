/** The control plane's own metrics; the discovery server registers its own beside them. */
import { collectDefaultMetrics, Counter, Gauge, Registry } from "prom-client";
import type { Authority } from "../../ca/authority.js";
import type { CaCounters } from "../../ca/ports.js";
import { Strangers } from "../../ca/service/strangers.js";

export const promClientContentType = Registry.PROMETHEUS_CONTENT_TYPE;

export function createRegistry(version: string): Registry {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  new Gauge({
    name: "istio_build",
    help: "Always 1; its labels tell which build runs.",
    labelNames: ["component", "tag"],
    registers: [registry],
  }).set({ component: "control-plane", tag: version }, 1);
  return registry;
}

export function caCounters(registry: Registry): CaCounters {
  const issued = new Counter({
    name: "meltemi_ca_issued_total",
    help: "Workload certificates issued.",
    registers: [registry],
  });
  const refused = new Counter({
    name: "meltemi_ca_refused_total",
    help: "Certificate requests refused.",
    labelNames: ["reason"],
    registers: [registry],
  });
  return { issued: () => issued.inc(), refused: (reason) => refused.inc({ reason }) };
}

/** The bound on connections without a token, with what is seen of it. */
export function observedStrangers(registry: Registry): Strangers {
  const closed = new Counter({
    name: "meltemi_connections_unauthenticated_closed_total",
    help: "Connections closed without a node's token, to make room for newer ones.",
    registers: [registry],
  });
  const strangers = new Strangers({ onClosed: () => closed.inc() });
  new Gauge({
    name: "meltemi_connections_unauthenticated",
    help: "Open connections on which no node's token was seen yet.",
    registers: [registry],
    collect() {
      this.set(strangers.size);
    },
  });
  return strangers;
}

/** Gauges that are read when they are scraped. */
export function observe(registry: Registry, authority: Authority, problems: () => number): void {
  const registers = [registry];
  new Gauge({
    name: "meltemi_ca_trust_version",
    help: "Version of the trust bundle.",
    registers,
    collect() {
      this.set(authority.state.version);
    },
  });
  new Gauge({
    name: "meltemi_ca_rotation_waiting",
    help: "Certificates in use that a rotation waits for.",
    registers,
    collect() {
      this.set(authority.waiting().length);
    },
  });
  new Gauge({
    name: "meltemi_ca_certificate_expiry_timestamp_seconds",
    help: "When the CA's own certificates expire.",
    labelNames: ["certificate"],
    registers,
    collect() {
      const { roots, issuing } = authority.describe();
      this.set({ certificate: "issuing" }, Date.parse(issuing.not_after) / 1000);
      this.set(
        { certificate: "root" },
        Math.min(...roots.map(({ not_after }) => Date.parse(not_after))) / 1000,
      );
    },
  });
  new Gauge({
    name: "meltemi_config_problems",
    help: "Problems of the configuration that stand now.",
    registers,
    collect() {
      this.set(problems());
    },
  });
}
