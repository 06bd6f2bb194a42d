import { readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

import { describe, expect, it } from "vitest";

import { Compiler } from "../../../src/compile/compiler.js";
import { defaultCompileConfig } from "../../../src/compile/config.js";
import { decodeText } from "../../../src/sources/decode/text.js";
import { apply, namespace, pod } from "../../helpers/mesh-objects.js";

const root = resolve(dirname(fileURLToPath(import.meta.url)), "../../..");
const guide = readFileSync(join(root, "docs/policy.md"), "utf8");
const examples = [...guide.matchAll(/^```yaml\n([\s\S]*?)^```$/gmu)].map(([, text = ""]) => ({
  title: /^ {2}name: (.+)$/mu.exec(text)?.[1] ?? "",
  text,
}));

function objectsOf(text: string) {
  return decodeText(text, "docs/policy.md", { origin: "files" }).objects.map(({ decoded }) => {
    if (decoded.outcome !== "understood") throw new Error(JSON.stringify(decoded.problems));
    return decoded;
  });
}

function authorizationsOf(text: string) {
  const compiler = new Compiler(defaultCompileConfig);
  const before = [
    namespace("shop", { "istio.io/dataplane-mode": "ambient" }),
    pod("shop", "catalog-1", "10.0.0.1", { app: "catalog" }),
  ];
  compiler.apply(apply(...before, ...objectsOf(text).map(({ object }) => object)));
  const all = [...compiler.all()];
  return {
    policies: new Map(all.flatMap((one) => (one.type === "authorization" ? [[one.key, one]] : []))),
    workloads: all.flatMap((one) => (one.type === "workload" ? [one] : [])),
  };
}

function example(title: string): string {
  const found = examples.find((each) => each.title === title);
  if (!found) throw new Error(`docs/policy.md has no example ${title}`);
  return found.text;
}

describe("the examples of the policy guide", () => {
  it.each(examples)("$title is understood without an error", ({ text }) => {
    const decoded = objectsOf(text);
    const errors = decoded.flatMap(({ problems }) => problems.filter(({ severity }) => severity === "error"));
    expect(decoded.length).toBeGreaterThan(0);
    expect(errors).toEqual([]);
  });

  // Those of waypoints are told to these alone.
  const ofNodes = ({ text }: { readonly text: string }): boolean =>
    text.includes("kind: AuthorizationPolicy") && !text.includes("targetRefs");
  it.each(examples.filter(ofNodes))("$title comes into force with the action that it says", ({ text }) => {
    const { policies } = authorizationsOf(text);
    for (const { object } of objectsOf(text)) {
      if (object.kind !== "AuthorizationPolicy") throw new Error(`unexpected ${object.kind}`);
      const compiled = policies.get(`${object.meta.namespace}/${object.meta.name}` as never);
      expect(compiled?.action).toBe(object.action.toLowerCase());
      expect(compiled?.dryRun).toBe(text.includes("dry-run"));
    }
  });

  it("say rightly that the debugger is out of its namespace's mesh", () => {
    const { workloads } = authorizationsOf(example("shop"));
    const tunnels = Object.fromEntries(workloads.map(({ name, tunnel }) => [name, tunnel]));
    expect(tunnels).toEqual({ "catalog-1": "hbone", debugger: "none" });
  });

  it("say rightly that an ALLOW without rules matches nothing", () => {
    const [compiled] = authorizationsOf(example("nothing")).policies.values();
    expect(compiled).toMatchObject({ action: "allow", rules: [] });
  });

  it("say rightly that a DENY loses its HTTP part and keeps the rest", () => {
    const [compiled] = authorizationsOf(example("no-deletes")).policies.values();
    expect(compiled?.rules).toHaveLength(1);
    expect(compiled?.rules[0]).toHaveLength(1);
    expect(compiled?.rules[0]?.[0]?.[0]?.namespaces).toHaveLength(1);
  });

  it("say rightly that STRICT becomes a DENY that the pods name, and a port its exception", () => {
    const { policies, workloads } = authorizationsOf(example("default"));
    const named = workloads.find(({ name }) => name === "catalog-1")?.policies ?? [];
    expect(named.length).toBeGreaterThan(0);
    for (const key of named) expect(policies.get(key)?.action).toBe("deny");
    const exceptions = named.flatMap((key) =>
      (policies.get(key)?.rules ?? []).flatMap((rule) =>
        rule.flatMap((clause) => clause.flatMap(({ notDestinationPorts }) => notDestinationPorts)),
      ),
    );
    expect(exceptions).toContain(9100);
  });
});

describe("what the policy guide says is refused", () => {
  const catalogCallers = example("catalog-callers");
  const metricsInTheClear = example("default").split("---\n")[1] ?? "";

  it.each([
    ["an empty list", catalogCallers.replace(/principals: .*/u, "principals: []"), "principals"],
    ["a field that is not known", catalogCallers.replace("principals:", "principal:"), "principal"],
    [
      "a principal with its scheme",
      catalogCallers.replace('["cluster', '["spiffe://cluster'),
      "principals[0]",
    ],
    [
      "ports of PeerAuthentication without a selector",
      metricsInTheClear.replace(/ {2}selector:\n.*\n/u, ""),
      "portLevelMtls",
    ],
  ])("%s, and the field is named", (_, text, field) => {
    const [decoded] = decodeText(text, "docs/policy.md", { origin: "files" }).objects.map(
      (each) => each.decoded,
    );
    expect(decoded?.outcome).toBe("refused");
    expect(decoded?.problems.map(({ path }) => path).join(" ")).toContain(field);
  });
});
