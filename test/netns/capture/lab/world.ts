/** The pods of the behavioural suite, what they serve, and the Services before them. */
import type { Family, Place } from "../cases/case.js";
import { PodProgram, udpEcho } from "../../node/probes.js";
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
  /** HTTP/2 without TLS. */
  http2: 9004,
  /** HTTP, on ports that a pod may keep out of the mesh. */
  spareHttp: 9100,
} as const;

export const serviceIp = (family: Family): string => (family === 4 ? "10.96.1.1" : "[fd00:96::1]");

/** Service `server`, and the same without a virtual address. */
const services = `
apiVersion: v1
kind: Service
metadata: { name: server, namespace: shop }
spec: { clusterIP: 10.96.1.1, clusterIPs: [10.96.1.1, "fd00:96::1"], ipFamilies: [IPv4, IPv6], ipFamilyPolicy: RequireDualStack, selector: { app: server }, ports: [{ port: 80, targetPort: ${ports.http} }] }
---
apiVersion: v1
kind: Service
metadata: { name: each, namespace: shop }
spec: { clusterIP: None, selector: { app: server }, ports: [{ port: ${ports.http} }] }
`;

const http2Server = `
  require("node:http2").createServer((request, response) => response.end("grpc"))
    .listen(${ports.http2}, "::", () => console.log("ready"));`;

/** Starts every server in these pods, and waits until they listen. */
export async function serve(lab: Lab, ...pods: readonly string[]): Promise<void> {
  const http = (port: number, name: string): string[] => ["http", "--listen", `[::]:${port}`, "--name", name];
  const tcp = (port: number, ...more: string[]): string[] => ["tcp", "--listen", `[::]:${port}`, ...more];
  await Promise.all(
    pods.flatMap((name) => {
      const { netns } = lab.pod(name);
      return [
        PodProgram.start(netns, udpEcho(ports.udp)).then((program) => lab.owns(program)),
        PodProgram.start(netns, http2Server).then((program) => lab.owns(program)),
        lab.kit(netns, "serve", ...http(ports.http, name)),
        lab.kit(netns, "serve", ...http(ports.spareHttp, name)),
        lab.kit(netns, "serve", ...tcp(ports.echo)),
        lab.kit(netns, "serve", ...tcp(ports.greeting, "--greeting", "welcome")),
        lab.kit(netns, "serve", ...tcp(ports.digest, "--half-close")),
      ];
    }),
  );
}

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
  return lab.begin(async () => {
    lab.apply("services.yaml", services);
    await serve(lab, "server", "joiner", "outsider");
  });
}

export function placeOf(lab: Lab, mode: Mode, family: Family): Place {
  const ip = (pod: string): string => (family === 4 ? lab.pod(pod).ip : lab.pod(pod).ip6);
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
    mac: (name) => lab.mac(name),
  };
}
