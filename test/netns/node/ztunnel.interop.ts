/**
 * Drives a real ztunnel (MELTEMI_ZTUNNEL names the binary) with our enrolment, capture and ZDS: two
 * captured pods, no CA (the pods take plaintext), its configuration from a file. Run inside a sandbox (interop only).
 */
import { spawn } from "node:child_process";
import { createWriteStream } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { eventually, runIn, run } from "../../../demo/lab/command.js";
import { Topology } from "../../../demo/lab/topology.js";
import { meshNamespace, pod, startCore } from "./harness.js";

const ztunnel = process.env["MELTEMI_ZTUNNEL"];
if (ztunnel === undefined) throw new Error("MELTEMI_ZTUNNEL names no binary");

const topology = new Topology("z");
await topology.up(["n1"]);
const a = await topology.addPod("a", "n1", 2);
const b = await topology.addPod("b", "n1", 3);
const core = await startCore({ verifyIntervalMs: 500 });
const workload = (name: string, ip: string): string =>
  [
    `  - uid: Kubernetes//Pod/default/${name}`,
    `    name: ${name}`,
    `    namespace: default`,
    `    serviceAccount: ${name}`,
    `    workloadIps: ["${ip}"]`,
    `    protocol: TCP`,
    `    node: n1`,
    `    network: ""`,
    `    services: {}`,
  ].join("\n");
const local = join(core.directory, "local.yaml");
await writeFile(local, `workloads:\n${workload("a", a.ip)}\n${workload("b", b.ip)}\n`);
core.apply(
  { type: "apply", object: meshNamespace("default") },
  { type: "apply", object: pod("a", a.ip, a.netns) },
  { type: "apply", object: pod("b", b.ip, b.netns) },
);
const child = spawn(ztunnel, [], {
  env: {
    PROXY_MODE: "shared",
    INPOD_UDS: join(core.directory, "zds.sock"),
    CA_ADDRESS: "https://127.0.0.1:15012",
    XDS_ADDRESS: "",
    LOCAL_XDS_PATH: local,
    NODE_NAME: "n1",
    RUST_LOG: "info",
  },
  stdio: ["ignore", "pipe", "pipe"],
});
const log = createWriteStream("/dev/stderr");
child.stdout.pipe(log);
child.stderr.pipe(log);
await eventually(
  "both pods to be enrolled",
  () => core.pods.status.every(({ state }) => state === "enrolled") || undefined,
  { deadlineMs: 15_000 },
);
console.log(core.pods.status, core.zds.streams);
const server = spawn(
  "nsenter",
  [`--net=/run/netns/${b.netns}`, "python3", "-m", "http.server", "8080", "--bind", "0.0.0.0"],
  { stdio: "inherit" },
);
await eventually("an answer over the mesh", async () => {
  const text = await runIn(a.netns, "curl", [
    "-s",
    "-m",
    "5",
    "-o",
    "/dev/null",
    "-w",
    "%{http_code}",
    `http://${b.ip}:8080/`,
  ]);
  return text === "200" ? text : undefined;
});
console.log("200 over the mesh");
console.log(
  await run("sh", [
    "-c",
    `nsenter --net=/run/netns/${b.netns} nft list ruleset; nsenter --net=/run/netns/${b.netns} ip rule`,
  ]),
);
await core.pods.leaveAll();
console.log(
  await run("sh", [
    "-c",
    `echo after; nsenter --net=/run/netns/${b.netns} nft list ruleset; nsenter --net=/run/netns/${b.netns} ip rule`,
  ]),
);
child.kill("SIGTERM");
server.kill();
await core.kill();
