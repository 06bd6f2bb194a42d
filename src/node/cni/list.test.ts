import { expect, test } from "vitest";
import { RecordingLogger } from "../../../test/helpers/recording-logger.js";
import { VirtualClock } from "../../../test/helpers/virtual-clock.js";
import { defaultEnrolmentRules } from "../../domain/enrolment.js";
import type { NamespaceObject, PodObject } from "../../domain/objects.js";
import type { Files } from "../../platform/files.js";
import { DesiredPods } from "../enrol/desired.js";
import { AskingList } from "./list.js";

const meta = (namespace: string, name: string, mode: string | undefined) => ({
  apiVersion: "v1",
  namespace,
  name,
  uid: `uid-${name}`,
  generation: 1,
  labels: new Map(mode === undefined ? [] : [["istio.io/dataplane-mode", mode]]),
  annotations: new Map<string, string>(),
});

const namespace = (name: string, mode?: string): NamespaceObject => ({
  kind: "Namespace",
  meta: meta("", name, mode),
});

const pod = (inNamespace: string, name: string, mode?: string): PodObject => ({
  kind: "Pod",
  meta: meta(inNamespace, name, mode),
  nodeName: "n1",
  serviceAccount: "default",
  hostNetwork: false,
  ips: [],
  netns: undefined,
  phase: "Pending",
  ready: false,
  terminating: false,
  containerNames: ["app"],
  ports: [],
  owner: undefined,
});

function scene() {
  const desired = new DesiredPods({ node: "n1", cluster: "c", rules: defaultEnrolmentRules });
  const written: string[] = [];
  let failures = 0;
  const files = {
    writeAtomic: (_: string, text: string) => {
      if (failures-- > 0) return Promise.reject(new Error("no space left"));
      written.push(text);
      return Promise.resolve();
    },
    remove: () => {
      written.push("removed");
      return Promise.resolve();
    },
  } as Partial<Files> as Files;
  const clock = new VirtualClock();
  const log = new RecordingLogger();
  let known = true;
  const list = new AskingList("/l", () => (known ? desired.asking() : undefined), files, clock, log);
  return {
    desired,
    written,
    clock,
    log,
    list,
    failOnce: () => (failures = 1),
    forget: () => (known = false),
  };
}

test("says of namespaces and pods what the enrolment's rule says, before a pod has an address", async () => {
  const { desired, written, list, clock } = scene();
  const objects = [
    namespace("shop", "ambient"),
    namespace("plain"),
    namespace("kube-system", "ambient"),
    pod("shop", "in"),
    pod("shop", "out", "none"),
    pod("plain", "in", "ambient"),
    pod("plain", "out"),
    pod("kube-system", "dns", "ambient"),
    { ...pod("shop", "host"), hostNetwork: true },
    { ...pod("shop", "elsewhere"), nodeName: "n2" },
  ];
  desired.take({ events: objects.map((object) => ({ type: "apply", object })), problems: [] });
  list.changed();
  await clock.advance(50);
  const asks = (name: string, wanted: boolean) => ({ uid: `uid-${name}`, asks: wanted });
  expect(JSON.parse(written[0] ?? "")).toEqual({
    version: 1,
    never: [...defaultEnrolmentRules.excludedNamespaces],
    namespaces: { shop: true, plain: false, "kube-system": true },
    pods: {
      "shop/in": asks("in", true),
      "shop/out": asks("out", false),
      "shop/host": asks("host", false),
      "plain/in": asks("in", true),
      "plain/out": asks("out", false),
      "kube-system/dns": asks("dns", false),
    },
  });
});

test("is written once for many changes, again when it failed, and not where nothing changed", async () => {
  const { desired, written, list, clock, log, failOnce, forget } = scene();
  for (const name of ["a", "b", "c"]) {
    desired.take({ events: [{ type: "apply", object: pod("plain", name) }], problems: [] });
    list.changed();
  }
  failOnce();
  await clock.advance(50);
  expect([written.length, log.messages]).toEqual([0, ["list for the CNI plugin not written"]]);
  await clock.advance(5_000);
  expect(written).toHaveLength(1);
  list.changed();
  await clock.advance(50);
  expect(written).toHaveLength(1);
  forget();
  list.changed();
  await clock.advance(50);
  expect(written).toHaveLength(1);
});

test("is gone for good once it is removed", async () => {
  const { desired, written, list, clock } = scene();
  list.changed();
  await clock.advance(50);
  desired.take({ events: [{ type: "apply", object: pod("plain", "a") }], problems: [] });
  list.changed();
  await list.remove();
  await list.flush();
  await clock.advance(100);
  expect(written.at(-1)).toBe("removed");
});
