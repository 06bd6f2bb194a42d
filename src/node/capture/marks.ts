/** Ports and marks of capture (docs/capture.md). A mark serves routing; it proves nothing. */
export const ports = { outbound: 15001, inbound: 15006, tunnel: 15008 } as const;

/** All marks are of the low twelve bits; the rest of a packet's mark is others'. */
export const markMask = "0xfff";

export const marks = {
  /** Sockets of the data plane. */
  proxy: "0x539",
  /** Connections that are left alone: from before enrolment, of the host, excluded. */
  exempt: "0x53a",
  /** Connections that the data plane carries, of a pod that leaves. */
  draining: "0x53b",
  /** First segments for a data plane that does not listen. */
  unserved: "0x53c",
  /** Connections (of connection tracking) that the data plane makes to the application with the client's address. */
  answered: "0x111",
} as const;

export const maskBits = "0xfffff000";
