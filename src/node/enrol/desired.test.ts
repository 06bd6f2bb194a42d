import { describe, expect, it } from "vitest";
import { defaultEnrolmentRules } from "../../domain/enrolment.js";
import type { NamespaceObject, PodObject } from "../../domain/objects.js";
import { DesiredPods, type EnrolledPod, type Sandbox } from "./desired.js";

const key = "shop/a";
const meta = (uid: string, inNamespace: string, name: string, labels: Record<string, string> = {}) => ({
  apiVersion: "v1",
  namespace: inNamespace,
  name,
  uid,
  generation: 1,
  labels: new Map(Object.entries(labels)),
  annotations: new Map<string, string>(),
});
const namespace: NamespaceObject = {
  kind: "Namespace",
  meta: meta("", "", "shop", { "istio.io/dataplane-mode": "ambient" }),
};
const pod = (uid: string): PodObject => ({
  kind: "Pod",
  meta: meta(uid, "shop", "a"),
  nodeName: "n1",
  serviceAccount: "default",
  hostNetwork: false,
  ips: ["10.0.0.1"],
  netns: undefined,
  phase: "Running",
  ready: true,
  terminating: false,
  containerNames: ["app"],
  ports: [],
  owner: undefined,
});
const sandbox = (podUid: string, netnsInode: number): Sandbox => ({
  podUid,
  netns: `/run/netns/${netnsInode}`,
  netnsInode,
  ips: [`10.0.0.${netnsInode}`],
});

/** The pod with that uid, given what was told and what was found of its name. */
function placed(uid: string, told: Sandbox | undefined, found: Sandbox | undefined): EnrolledPod | undefined {
  const desired = new DesiredPods({ node: "n1", cluster: "c", rules: defaultEnrolmentRules });
  desired.take({
    events: [
      { type: "apply", object: namespace },
      { type: "apply", object: pod(uid) },
    ],
    problems: [],
  });
  if (told !== undefined) desired.place(key, told);
  desired.found(new Map(found === undefined ? [] : [[key, found]]));
  return desired.current().enrolled.get(key);
}

describe("a pod's place", () => {
  it.each([
    ["what was told comes first", "new", sandbox("new", 2), sandbox("new", 3), 2],
    ["what was told of a predecessor hides nothing", "new", sandbox("old", 2), sandbox("new", 3), 3],
    ["what was found serves where nobody told", "new", undefined, sandbox("new", 3), 3],
    ["an unknown uid matches any", "new", sandbox("", 2), sandbox("new", 3), 2],
    ["a predecessor's is nobody's place", "new", sandbox("old", 2), sandbox("old", 3), undefined],
  ])("%s", (_rule, uid, told, found, inode) => {
    expect(placed(uid, told, found)).toMatchObject({
      netnsInode: inode,
      netns: inode === undefined ? undefined : `/run/netns/${inode}`,
      ips: [inode === undefined ? "10.0.0.1" : `10.0.0.${inode}`],
    });
  });
});
