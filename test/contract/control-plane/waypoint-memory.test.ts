/** An idle waypoint of a large mesh: the real program beside a real control plane. */
import { spawn, type ChildProcess } from "node:child_process";
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, expect, test } from "vitest";
import { callUnixJson } from "../../../src/platform/unix-http-client.js";
import { ControlPlaneProcess } from "../../helpers/control-plane-process.js";
import { eventually } from "../../helpers/eventually.js";

const proxy = fileURLToPath(new URL("../../../target/release/meltemi-proxy", import.meta.url));
const plane = new ControlPlaneProcess();
let waypoint: ChildProcess | undefined;
afterAll(async () => {
  waypoint?.kill("SIGKILL");
  await plane.remove();
});

const pods = 10_000;
const services = 1_000;

const ip = (block: number, index: number): string =>
  `10.${block + (index >> 16)}.${(index >> 8) & 255}.${index & 255}`;
const pod = (name: string, address: string, app: string): string =>
  `{apiVersion: v1, kind: Pod, metadata: {name: ${name}, namespace: shop, labels: {app: ${app}, istio.io/dataplane-mode: ambient}}, ` +
  `spec: {containers: [{name: c, image: x}]}, status: {podIP: ${address}, phase: Running}}`;
const service = (name: string, address: string, labels: string): string =>
  `{apiVersion: v1, kind: Service, metadata: {name: ${name}, namespace: shop, labels: {${labels}}}, ` +
  `spec: {clusterIP: ${address}, selector: {app: ${name}}, ports: [{name: http, port: 80}]}}`;

interface Dump {
  readonly mesh: {
    readonly workloads: readonly unknown[];
    readonly services: readonly unknown[];
    readonly state_version: number;
  };
}

test("knows what it serves of 10,000 pods, in a few megabytes, and hears nothing of the others", async () => {
  const app = (index: number): string => `s${index % services}`;
  const documents = [
    ...Array.from({ length: services }, (_, index) =>
      service(app(index), ip(120, index + 1), index === 0 ? "istio.io/use-waypoint: front" : ""),
    ),
    ...Array.from({ length: pods }, (_, index) => pod(`p${index}`, ip(20, index + 1), app(index))),
    "{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: front, namespace: shop, annotations: {meltemi.io/netns: front}}, spec: {gatewayClassName: meltemi-waypoint, addresses: [{value: 127.0.0.1}], listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}",
  ];
  plane.write("mesh.yaml", documents.join("\n---\n"));
  await plane.start();
  const run = join(plane.directory, "waypoint");
  mkdirSync(run, { mode: 0o700 });
  const server = `unix-tls:${join(plane.run, "control-xds.sock")}`;
  const root = join(plane.run, "root-cert.pem");
  const child = spawn(proxy, [
    ...["waypoint", "--namespace", "shop", "--name", "front", "--run-dir", run, "--listen", "127.0.0.1:0"],
    ...["--xds", server, "--ca", server, "--xds-root", root, "--ca-root", root, "--log-level", "warn"],
    ...["--auth-token", join(plane.state, "waypoint-tokens/shop.front")],
  ]);
  waypoint = child;
  const ask = (path: string): Promise<unknown> =>
    callUnixJson({ socketPath: join(run, "proxy-admin.sock"), path });
  await eventually("the waypoint to be ready", async () => {
    const { ready } = (await ask("/ready").catch(() => ({ ready: false }))) as { ready: boolean };
    return ready;
  });
  const dump = (await ask("/config_dump")) as Dump;
  // Its own workload, and the ten endpoints of the one service that passes it.
  expect(dump.mesh.workloads).toHaveLength(11);
  expect(dump.mesh.services).toHaveLength(1);
  const status = readFileSync(`/proc/${child.pid}/status`, "utf8");
  const mb = (field: string): number =>
    Number(new RegExp(`^${field}:\\s+(\\d+) kB`, "m").exec(status)?.[1]) / 1024;
  process.stdout.write(
    `idle waypoint in a mesh of ${pods} pods: ${mb("VmRSS").toFixed(1)} MB, of which ${mb("RssAnon").toFixed(1)} MB are its own\n`,
  );
  // The rest are pages of the program, of which a debug build has more.
  expect(mb("RssAnon")).toBeLessThan(8);
  plane.write("more.yaml", pod("elsewhere", "10.30.0.1", "s5"));
  plane.write("own.yaml", pod("own", "10.30.0.2", "s0"));
  const later = await eventually("the new endpoint", async () => {
    const now = (await ask("/config_dump")) as Dump;
    return now.mesh.workloads.length > 11 && now;
  });
  expect(later.mesh.workloads).toHaveLength(12);
}, 120_000);
