/** The pods of the behavioural suite, what they serve, and the Services before them. */
import { spawn } from "node:child_process";
import { netnsPath } from "../../../../demo/lab/command.js";
import type { Family, Place } from "../cases/case.js";
import { udpEcho } from "../../node/probes.js";
import type { Mode } from "./kernel.js";
import { Lab } from "./lab.js";

export const ports = {
  http: 8080,
  echo: 9000,
  /** Server first. */
  greeting: 9001,
  /** Answers with a digest after the client's end. */
  digest: 9002,
  udp: 9003,
  /** HTTP, on ports that a pod may keep out of the mesh. */
  spareHttp: 9100,
} as const;

export const serviceIp = (family: Family): string => (family === 4 ? "10.96.1.1" : "[fd00:96::1]");

/** Service `server`, and the same without a virtual address. */
const services = `
apiVersion: v1
kind: Service
metadata: { name: server, namespace: shop }
spec: { clusterIP: 10.96.1.1, clusterIPs: [10.96.1.1], selector: { app: server }, ports: [{ port: 80, targetPort: ${ports.http} }] }
---
apiVersion: v1
kind: Service
metadata: { name: each, namespace: shop }
spec: { clusterIP: None, selector: { app: server }, ports: [{ port: ${ports.http} }] }
`;

/** Of a prefix of its own, so that several may run in one sandbox, one after another. */
export async function startWorld(prefix: string, flags: readonly string[]): Promise<Lab> {
  const lab = new Lab(
    prefix,
    [
      { name: "server", node: "n1", host: 10 },
      { name: "joiner", node: "n1", host: 11, outside: true },
      { name: "neighbour", node: "n1", host: 12, outside: true },
      { name: "client", node: "n2", host: 10 },
      { name: "outsider", node: "n2", host: 20, outside: true },
    ],
    flags,
  );
  await lab.up();
  lab.apply("services.yaml", services);
  const http = (port: number, name: string): string[] => [
    "serve",
    "http",
    "--listen",
    `[::]:${port}`,
    "--name",
    name,
  ];
  const tcp = (port: number, ...more: string[]): string[] => [
    "serve",
    "tcp",
    "--listen",
    `[::]:${port}`,
    ...more,
  ];
  await Promise.all(
    ["server", "joiner", "outsider"].flatMap((name) => {
      const { netns } = lab.pod(name);
      return [
        lab.kit(netns, ...http(ports.http, name)),
        lab.kit(netns, ...http(ports.spareHttp, name)),
        lab.kit(netns, ...tcp(ports.echo)),
        lab.kit(netns, ...tcp(ports.greeting, "--greeting", "welcome")),
        lab.kit(netns, ...tcp(ports.digest, "--half-close")),
      ];
    }),
  );
  for (const name of ["server"]) {
    const args = [
      `--net=${netnsPath(lab.pod(name).netns)}`,
      "--",
      process.execPath,
      "-e",
      udpEcho(ports.udp),
    ];
    lab.owns(spawn("nsenter", args, { stdio: "ignore" }));
  }
  lab.start();
  await lab.ready();
  return lab;
}

export function placeOf(lab: Lab, mode: Mode, family: Family): Place {
  const ip = (pod: string): string => {
    const { ip: v4, node } = lab.pod(pod);
    return family === 4 ? v4 : `fd00:88:${node.subnet}::${v4.split(".")[3] ?? ""}`;
  };
  return {
    lab,
    mode,
    family,
    ip,
    bridgeIp: (name) => {
      const { subnet } = lab.node(name);
      return family === 4 ? `10.88.${subnet}.1` : `fd00:88:${subnet}::1`;
    },
    at: (pod, port) => (family === 4 ? `${ip(pod)}:${port}` : `[${ip(pod)}]:${port}`),
    pod: (name) => lab.pod(name),
  };
}
