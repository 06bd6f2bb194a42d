import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { eventually } from "../../../test/helpers/eventually.js";
import { RecordingLogger } from "../../../test/helpers/recording-logger.js";
import { scratchDirectory } from "../../../test/helpers/scratch.js";
import type { MeshObject, NodeObject, PodObject } from "../../domain/objects.js";
import type { SourceBatch, SourceEvent } from "../../domain/source-event.js";
import { systemClock } from "../../platform/clock.js";
import { systemFiles } from "../../platform/files.js";
import { loadNative } from "../../platform/native.js";
import { systemProcesses } from "../../platform/process.js";
import { systemRandom } from "../../platform/random.js";
import { Child, type ChildParts } from "./child.js";
import { DesiredNodes } from "./desired-nodes.js";
import { InstanceFile, readFormerInstance } from "./instance-file.js";
import { desiredSource } from "./run.js";

const meta = (name: string, namespace = "shop"): PodObject["meta"] => ({
  apiVersion: "v1",
  namespace,
  name,
  uid: name,
  generation: 1,
  labels: new Map(),
  annotations: new Map(),
});

const pod = (name: string, nodeName: string | undefined): MeshObject => ({
  kind: "Pod",
  meta: meta(name),
  nodeName,
  serviceAccount: "default",
  hostNetwork: false,
  ips: ["10.0.0.1"],
  netns: undefined,
  phase: "Running",
  ready: true,
  terminating: false,
  containerNames: [],
  ports: [],
  owner: undefined,
});

const node = (name: string, netns: string | undefined): NodeObject => ({
  kind: "Node",
  meta: meta(name, ""),
  netns,
  region: "",
  zone: "",
  subzone: "",
  internalIps: [],
});

const batch = (...events: SourceEvent[]): SourceBatch => ({ events, problems: [] });
const apply = (object: MeshObject): SourceEvent => ({ type: "apply", object });

describe("which nodes there should be", () => {
  const log = new RecordingLogger();

  test("one per node that a pod names, in the namespace that its Node names", () => {
    const desired = new DesiredNodes();
    desired.apply(
      batch(apply(pod("a", "n2")), apply(pod("b", "n1")), apply(pod("c", "n1")), apply(pod("d", undefined))),
    );
    expect(desired.nodes(50, log)).toEqual([
      { name: "n1", netns: undefined },
      { name: "n2", netns: undefined },
    ]);
    desired.apply(
      batch(apply(node("n1", "blue")), apply(node("n2", "/proc/7/ns/net")), apply(node("n9", "x"))),
    );
    expect(desired.nodes(50, log).map(({ netns }) => netns)).toEqual(["/run/netns/blue", "/proc/7/ns/net"]);
  });

  test("a node goes with its last pod, and follows a pod that moves", () => {
    const desired = new DesiredNodes();
    desired.apply(batch(apply(pod("a", "n1")), apply(pod("b", "n1"))));
    desired.apply(batch({ type: "remove", kind: "Pod", namespace: "shop", name: "a" }));
    expect(desired.nodes(50, log)).toHaveLength(1);
    desired.apply(batch(apply(pod("b", "n2"))));
    expect(desired.nodes(50, log).map(({ name }) => name)).toEqual(["n2"]);
  });

  test("a name that is no directory's, or leaves no room for sockets, is told once", () => {
    const desired = new DesiredNodes();
    desired.apply(
      batch(apply(pod("a", "../etc")), apply(pod("b", "a-very-long-name")), apply(pod("c", "n1"))),
    );
    expect(desired.nodes(10, log).map(({ name }) => name)).toEqual(["n1"]);
    desired.nodes(10, log);
    expect(log.records.map(({ fields }) => fields["node"])).toEqual(["../etc", "a-very-long-name"]);
  });
});

test.each([
  ["broken YAML", "status: [ podIP: 10.9.0.2 }"],
  ["a field that is refused", "status: { podIP: nowhere }"],
])("a node stays wanted over a restart with %s", async (_name, broken) => {
  const [config, stateDir] = [join(scratchDirectory(), "config"), scratchDirectory()];
  const pods = (status: string): string =>
    [
      ...["apiVersion: v1", "kind: Pod", "metadata: { name: cart, namespace: shop }"],
      ...["spec: { nodeName: n1, containers: [{ name: c, image: x }] }", status, ""],
    ].join("\n");
  const nodesAtStart = async (): Promise<readonly string[]> => {
    const abort = new AbortController();
    const desired = new DesiredNodes();
    await desiredSource({ config, stateDir }, systemClock, new RecordingLogger()).run((one) => {
      desired.apply(one);
      abort.abort();
    }, abort.signal);
    return desired.nodes(50, new RecordingLogger()).map(({ name }) => name);
  };
  mkdirSync(config);
  writeFileSync(join(config, "pods.yaml"), pods("status: { podIP: 10.9.0.2 }"));
  expect(await nodesAtStart()).toEqual(["n1"]);
  writeFileSync(join(config, "pods.yaml"), pods(broken));
  expect(await nodesAtStart()).toEqual(["n1"]);
});

const processes = systemProcesses(loadNative(), systemClock);

async function parts(directory: string): Promise<ChildParts & { readonly log: RecordingLogger }> {
  const self = await processes.identify(process.pid);
  const instance = new InstanceFile(systemFiles, {
    ...{ pid: process.pid, startTicks: self!.startTicks, bootId: self!.bootId },
    ...{ startedAt: "now", version: "0", config: "/c", stateDir: directory, runDir: directory },
  });
  return { processes, instance, clock: systemClock, random: systemRandom, log: new RecordingLogger() };
}

const shell = (directory: string, script: string): ConstructorParameters<typeof Child>[1] => ({
  name: "node-n1",
  netns: "/run/netns/blue",
  stopTimeoutMs: 500,
  spawn: {
    command: "/bin/sh",
    args: ["-c", script],
    env: { PATH: "/usr/bin:/bin" },
    stdoutFile: join(directory, "out.log"),
    stderrFile: join(directory, "out.log"),
  },
});

const outputOf = (directory: string): string[] =>
  readFileSync(join(directory, "out.log"), "utf8").trim().split("\n");

describe("a child process", () => {
  test("is noted with its namespace, ended by SIGTERM, and forgotten", async () => {
    const directory = scratchDirectory();
    const own = await parts(directory);
    const child = new Child(
      own,
      shell(directory, "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done"),
    );
    await eventually(
      "the child",
      () => own.log.messages.includes("process started") && outputOf(directory).includes("up"),
    );
    const noted = (await readFormerInstanceAsStranger(directory))!.children;
    expect(noted).toMatchObject([{ name: "node-n1", netns: "/run/netns/blue" }]);
    await child.stop();
    expect(outputOf(directory)).toEqual(["up", "bye"]);
    expect((await readFormerInstanceAsStranger(directory))!.children).toEqual([]);
  });

  test("one that does not end is killed", async () => {
    const directory = scratchDirectory();
    const own = await parts(directory);
    const child = new Child(own, shell(directory, "trap '' TERM; echo up; while :; do sleep 0.01; done"));
    await eventually(
      "the child",
      () => own.log.messages.includes("process started") && outputOf(directory).includes("up"),
    );
    await child.stop();
    expect(own.log.records.at(-1)).toMatchObject({
      message: "process stopped",
      fields: { signal: "SIGKILL" },
    });
  });

  test("one that ends is started again, with growing pauses, until it is stopped", async () => {
    const directory = scratchDirectory();
    const own = await parts(directory);
    const child = new Child(own, shell(directory, "echo up; exit 3"));
    await eventually(
      "a third start",
      () => own.log.messages.filter((message) => message === "process started").length >= 3,
    );
    expect(own.log.records.find(({ message }) => message === "process ended")?.fields).toMatchObject({
      code: 3,
      name: "node-n1",
    });
    await child.stop();
    const starts = outputOf(directory).length;
    expect(own.log.messages.filter((message) => message === "process started")).toHaveLength(starts);
  });

  test("stopped while it is being started, it does not outlive us", async () => {
    const directory = scratchDirectory();
    const own = await parts(directory);
    const child = new Child(own, shell(directory, "while :; do sleep 0.01; done"));
    await child.stop();
    const started = own.log.records.find(({ message }) => message === "process started");
    const pid = started?.fields["pid"];
    if (typeof pid === "number") expect(await processes.identify(pid)).toBeUndefined();
    expect(own.log.messages.at(-1)).toBe(pid === undefined ? undefined : "process stopped");
  });

  test("a program that is not there is told, and tried again", async () => {
    const directory = scratchDirectory();
    const own = await parts(directory);
    const options = shell(directory, "");
    const child = new Child(own, { ...options, spawn: { ...options.spawn, command: "/nowhere/meltemi" } });
    await eventually(
      "two attempts",
      () => own.log.messages.filter((message) => message === "process not started").length >= 2,
    );
    await child.stop();
  });
});

/** Reads the file as a process would that is not its owner: the owner is made one that has ended. */
async function readFormerInstanceAsStranger(directory: string): ReturnType<typeof readFormerInstance> {
  const path = join(directory, "instance.json");
  const file = JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
  const copy = scratchDirectory();
  await systemFiles.writeAtomic(join(copy, "instance.json"), JSON.stringify({ ...file, startTicks: 1 }));
  return readFormerInstance(systemFiles, processes, copy);
}

describe("a run directory's owner", () => {
  test("that still runs is not pushed aside", async () => {
    const directory = scratchDirectory();
    await (await parts(directory)).instance.write();
    await expect(readFormerInstance(systemFiles, processes, directory)).rejects.toThrow(
      `already runs in ${directory} (process ${process.pid})`,
    );
  });

  test("that has ended is taken over from, also when its number is somebody else's now", async () => {
    const directory = scratchDirectory();
    await (await parts(directory)).instance.write();
    expect(await readFormerInstanceAsStranger(directory)).toMatchObject({ pid: process.pid, children: [] });
  });

  test("whose file is damaged is an error that says what to do", async () => {
    const directory = scratchDirectory();
    await systemFiles.writeAtomic(join(directory, "instance.json"), "{");
    await expect(readFormerInstance(systemFiles, processes, directory)).rejects.toThrow(
      /instance.json is damaged/,
    );
  });
});
