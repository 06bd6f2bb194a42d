import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseAllDocuments } from "yaml";
import { describe, expect, test } from "vitest";
import { meshResources } from "../sources/kube/resources.js";
import { renderObjects, renderYaml } from "./render.js";
import { defaultValues, readValues } from "./values.js";
import type { KubeObject } from "./objects.js";

const committed = fileURLToPath(new URL("../../manifests/meltemi.yaml", import.meta.url));
const objects = renderObjects(defaultValues);

interface Rule {
  readonly apiGroups: readonly string[];
  readonly resources: readonly string[];
  readonly resourceNames?: readonly string[];
  readonly verbs: readonly string[];
}

const find = (kind: string, name: string): KubeObject => {
  const found = objects.find((one) => one.kind === kind && one.metadata.name === name);
  if (found === undefined) throw new Error(`no ${kind} ${name}`);
  return found;
};
const rulesOf = (kind: string, name: string): readonly Rule[] => find(kind, name)["rules"] as readonly Rule[];

test("manifests/meltemi.yaml is what is rendered (node bin/meltemi manifest generate > manifests/meltemi.yaml)", () => {
  expect(readFileSync(committed, "utf8")).toBe(renderYaml(objects));
});

test("the text reads back as the objects", () => {
  expect(parseAllDocuments(renderYaml(objects)).map((document) => document.toJS() as unknown)).toEqual(
    JSON.parse(JSON.stringify(objects)),
  );
});

describe("rights", () => {
  const everything = (rules: readonly Rule[]): boolean =>
    rules.some(({ apiGroups, resources, verbs }) => [...apiGroups, ...resources, ...verbs].includes("*"));

  test("the control plane may read every kind that the model is made of", () => {
    const rules = rulesOf("ClusterRole", "meltemi-control-plane-meltemi-system");
    expect(everything(rules)).toBe(false);
    for (const { group, plural, only } of meshResources()) {
      const allowed = rules.some(
        ({ apiGroups, resources, resourceNames, verbs }) =>
          apiGroups.includes(group) &&
          resources.includes(plural) &&
          (only === undefined
            ? resourceNames === undefined
            : only.every(({ name }) => resourceNames?.includes(name) === true)) &&
          ["list", "watch"].every((verb) => verbs.includes(verb)),
      );
      expect([plural, allowed]).toEqual([plural, true]);
    }
  });

  test("an agent reads pods and namespaces, and writes nothing", () => {
    expect(rulesOf("ClusterRole", "meltemi-node-meltemi-system")).toEqual([
      { apiGroups: [""], resources: ["pods", "namespaces"], verbs: ["list", "watch"] },
    ]);
    expect(
      objects.filter(({ kind, metadata }) => kind === "Role" && metadata.name === "meltemi-node"),
    ).toEqual([]);
  });

  test("Secrets are read by name, and in the mesh's own namespace only", () => {
    const cluster = rulesOf("ClusterRole", "meltemi-control-plane-meltemi-system");
    expect(cluster.flatMap(({ resources }) => resources)).not.toContain("secrets");
    const reading = rulesOf("Role", "meltemi-control-plane").filter(
      ({ resources, verbs }) => resources.includes("secrets") && !verbs.includes("create"),
    );
    expect(reading.every(({ resourceNames = [] }) => resourceNames.length > 0)).toBe(true);
  });
});

test("the admission policy compares all that a node says of itself, apart from its taints", () => {
  const policy = find("ValidatingAdmissionPolicy", "meltemi-startup-taint-meltemi-system");
  const { validations } = policy["spec"] as { validations: readonly { expression: string }[] };
  const compared = validations.flatMap(({ expression }) => expression.split(" && "));
  const metadata = ["labels", "annotations", "ownerReferences", "finalizers"].map(
    (one) => `metadata.?${one}`,
  );
  const spec = ["unschedulable", "podCIDR", "podCIDRs", "providerID", "configSource", "externalID"];
  for (const field of [...metadata, ...spec.map((one) => `spec.?${one}`)])
    expect(compared).toContain(`object.${field} == oldObject.${field}`);
});

describe("values", () => {
  test("change what follows from them", () => {
    const yaml = renderYaml(
      renderObjects(readValues(["namespace=mesh", "imagePrefix=r.example/m", "replicas=1"])),
    );
    expect(yaml).toContain("image: r.example/m/agent:dev");
    expect(yaml).toContain("--control-plane=https://meltemi.mesh.svc:15012");
    expect(yaml).toContain("system:serviceaccount:mesh:meltemi-control-plane");
    expect(yaml).not.toContain("meltemi-system");
    expect(yaml).toContain("maxUnavailable: 1");
  });

  test.each([
    ["replica=3", /--set replica=3: there is no such value/],
    ["replicas=none", /--set replicas=none: expected a number from 1 to 9/],
    ["cniBinDir=relative", /expected an absolute path/],
    ["namespace", /there is no such value/],
    ["__proto__=x", /there is no such value/],
  ])("%s is refused", (setting, message) => {
    expect(() => readValues([setting])).toThrow(message);
  });
});

test("the control plane runs without privileges, the node's containers with those of daemonset/", () => {
  const template = (kind: string, name: string) =>
    (find(kind, name)["spec"] as { template: { spec: { containers: { securityContext: object }[] } } })
      .template;
  const [one] = template("Deployment", "meltemi-control-plane").spec.containers;
  expect(one?.securityContext).toEqual({
    allowPrivilegeEscalation: false,
    readOnlyRootFilesystem: true,
    capabilities: { drop: ["ALL"] },
  });
  const ofNode = template("DaemonSet", "meltemi-node").spec.containers.map(
    ({ securityContext }) => securityContext,
  );
  const listed = ["agent", "data-plane"].map(
    (name) =>
      (
        JSON.parse(
          readFileSync(fileURLToPath(new URL(`../../daemonset/${name}.json`, import.meta.url)), "utf8"),
        ) as { securityContext: object }
      ).securityContext,
  );
  expect(ofNode).toEqual(listed);
});
