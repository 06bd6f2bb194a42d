/** What is wrong in the configuration is named, and changes nothing else: seen at a running control plane. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { formatProblem, type Problem } from "../../../src/domain/problem.js";
import { ControlPlaneProcess } from "../../helpers/control-plane-process.js";
import { eventually } from "../../helpers/eventually.js";

const plane = new ControlPlaneProcess();

const namespace = `
apiVersion: v1
kind: Namespace
metadata: { name: shop, labels: { istio.io/dataplane-mode: ambient } }
`;
const pod = (name: string, ip: string): string => `
apiVersion: v1
kind: Pod
metadata: { name: ${name}, namespace: shop, labels: { app: ${name} }, annotations: { meltemi.io/netns: ${name} } }
spec: { nodeName: n1, serviceAccountName: ${name}, containers: [{ name: c, image: x }] }
status: { podIP: ${ip}, phase: Running }
`;
const policy = (name: string, spec: string): string => `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: ${name}, namespace: shop }
spec: ${spec}
`;
const callers = policy(
  "callers",
  '{ selector: { matchLabels: { app: cart } }, action: DENY, rules: [{ from: [{ source: { principals: ["cluster.local/ns/shop/sa/pay"] } }] }] }',
);

beforeAll(async () => {
  plane.write("shop.yaml", [namespace, pod("cart", "10.9.0.2"), pod("pay", "10.9.0.3")].join("---"));
  plane.write("callers.yaml", callers);
  await plane.start();
}, 60_000);
afterAll(() => plane.remove());

const problems = (): Promise<Problem[]> =>
  plane.json<{ problems: Problem[] }>("status").then((status) => status.problems);

/** What is in force, without what the bad input itself adds. */
async function inForce(): Promise<object> {
  const workloads = await plane.json<{ name: string; ips: string[]; policies: string[] }[]>("workloads");
  const policies = await plane.json<{ name: string; compiled: string[] }[]>("policies");
  return {
    workloads: workloads.map(({ name, ips, policies: bound }) => ({ name, ips, bound })),
    policies: policies.map(({ name, compiled }) => ({ name, compiled })),
  };
}

const asWritten = {
  workloads: [
    { name: "cart", ips: ["10.9.0.2"], bound: ["shop/callers"] },
    { name: "pay", ips: ["10.9.0.3"], bound: [] },
  ],
  policies: [{ name: "callers", compiled: ["shop/callers"] }],
};

interface BadInput {
  readonly name: string;
  readonly file: string;
  readonly text: string;
  /** What every problem line has to say, in one of them. */
  readonly says: RegExp;
  /** What it adds to what is in force. */
  readonly adds?: {
    readonly policies: readonly { readonly name: string; readonly compiled: readonly string[] }[];
  };
}

const cases: readonly BadInput[] = [
  {
    name: "YAML that does not parse",
    file: "callers.yaml",
    text: callers.replace("spec: {", "spec: ["),
    says: /^error: callers\.yaml:\d+: .*YAML/,
  },
  {
    name: "an unknown field",
    file: "callers.yaml",
    text: callers.replace("principals", "principles"),
    says: /^error: callers\.yaml:\d+: AuthorizationPolicy shop\/callers: spec\.rules\[0\]\.from\[0\]\.source\.principles.*; .*principals/,
  },
  {
    name: "a policy with an impossible principal",
    file: "callers.yaml",
    text: callers.replace("cluster.local/ns/shop/sa/pay", "cluster.local/pay"),
    says: /^error: callers\.yaml:\d+: AuthorizationPolicy shop\/callers: spec\.rules\[0\]\.from\[0\]\.source\.principals\[0\] \(is "cluster\.local\/pay"\): can match no identity; expected /,
  },
  {
    name: "a selector that matches nothing",
    file: "extra.yaml",
    text: policy("nobody", "{ selector: { matchLabels: { app: gone } }, action: DENY, rules: [{}] }"),
    says: /^warning: AuthorizationPolicy shop\/nobody: spec\.selector\.matchLabels \(is app=gone\): applies to 0 pods.*; compare its selector/,
    adds: { policies: [{ name: "nobody", compiled: ["shop/nobody"] }] },
  },
  {
    name: "a principal that nobody has",
    file: "extra.yaml",
    text: policy(
      "strangers",
      '{ action: DENY, rules: [{ from: [{ source: { principals: ["cluster.local/ns/shop/sa/nobody"] } }] }] }',
    ),
    says: /^warning: AuthorizationPolicy shop\/strangers: spec\.rules\[0\]\.from\[0\]\.source\.principals\[0\] \(is cluster\.local\/ns\/shop\/sa\/nobody\): names a service account that is not there/,
    adds: { policies: [{ name: "strangers", compiled: ["shop/strangers"] }] },
  },
  {
    name: "two pods with one address: only the first by name is served",
    file: "twin.yaml",
    text: pod("twin", "10.9.0.2"),
    says: /^error: Pod shop\/twin: status\.podIP \(is 10\.9\.0\.2\): is also the address of Pod shop\/cart, which has it; give each pod an address of its own/,
  },
];

test.each(cases)("$name", async ({ file, text, says, adds }) => {
  plane.write(file, text);
  const line = await eventually("the problem", async () =>
    (await problems()).map(formatProblem).find((problem) => says.test(problem)),
  );
  expect((await plane.cli("status")).stderr).toContain(line);
  // Said once, whoever found it.
  const { object, path } = (await problems()).find((problem) => formatProblem(problem) === line)!;
  const told = (await problems()).filter(
    (problem) => problem.path === path && JSON.stringify(problem.object) === JSON.stringify(object),
  );
  expect(told).toHaveLength(1);
  expect(await inForce()).toEqual({
    ...asWritten,
    policies: [...asWritten.policies, ...(adds?.policies ?? [])],
  });
  plane.write(file, file === "callers.yaml" ? callers : "");
  await eventually("no problem", async () => (await problems()).length === 0);
  expect(await inForce()).toEqual(asWritten);
});
