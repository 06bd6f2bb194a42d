import type { LabPod } from "../../demo/lab/topology.js";

/** What every server pod serves, and on which port. */
export const ports = { http: 8080, sink: 5001, source: 5002, echo: 5003 } as const;
export type Served = keyof typeof ports;

/** The processes to which work is charged. */
export interface Charged {
  /** Those that carry bytes, of both ends. */
  readonly proxies: readonly number[];
  readonly agents: readonly number[];
}

/** One way from a client pod on one node to a server pod on another. */
export interface Contender {
  readonly name: string;
  readonly client: LabPod;
  readonly server: LabPod;
  /** Whether the wire between the nodes may show nothing readable. */
  readonly encrypted: boolean;
  /** IP:PORT that the client dials. */
  readonly address: (served: Served) => string;
  readonly charged: () => Promise<Charged>;
}

/** Dials the server pod's own address, as an application does. */
export const direct = (client: LabPod, server: LabPod): Contender => ({
  name: "direct",
  client,
  server,
  encrypted: false,
  address: (served) => `${server.ip}:${ports[served]}`,
  charged: () => Promise.resolve({ proxies: [], agents: [] }),
});
