import { existsSync, readdirSync, readFileSync } from "node:fs";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { parse, parseAllDocuments } from "yaml";
import { formatProblem } from "../domain/problem.js";
import { analysisExitCode, analyzeDirectory, formatAnalysis, type Analysis } from "./analyze.js";

/** The manifests that users of this field start from, where this machine has them (../shared beside the clone). */
const sharedData = process.env["MELTEMI_SHARED_DATA"] ?? resolve(import.meta.dirname, "../../../shared/data");

/** The documents of a file that say something, items of Lists one by one: counted with nothing of ours. */
function countDocuments(text: string): number {
  const documents = parseAllDocuments(text, { logLevel: "silent" });
  if (!Array.isArray(documents)) return 0;
  return documents
    .map((document) =>
      document.errors.length > 0 ? {} : (document.toJS() as { kind?: string; items?: unknown[] } | null),
    )
    .filter((value) => value !== null)
    .map((value) => (value.kind === "List" && value.items ? value.items.length : 1))
    .reduce((sum, count) => sum + count, 0);
}

function lines(analysis: Analysis): string[] {
  return analysis.problems.map(formatProblem);
}

describe.runIf(existsSync(sharedData))("the field's own manifests", () => {
  const files = existsSync(sharedData)
    ? readdirSync(sharedData, { recursive: true, encoding: "utf8" }).filter((file) =>
        /\.(ya?ml|json)$/.test(file),
      )
    : [];

  test("are all read, each object understood, named as not supported yet, or refused", async () => {
    const analysis = await analyzeDirectory(sharedData);
    expect(analysis.files).toBe(files.length);
    expect(analysis.objects).toBe(
      files
        .map((file) => countDocuments(readFileSync(join(sharedData, file), "utf8")))
        .reduce((a, b) => a + b),
    );
    expect(analysis.understood + analysis.unsupported + analysis.refused).toBe(analysis.objects);
    expect(
      analysis.kinds.reduce((sum, kind) => sum + kind.understood + kind.unsupported + kind.refused, 0),
    ).toBe(analysis.objects);
    expect(analysis.refused).toBe(0);
  });

  test.each(files)("%s: what is not understood has a line of its own", async (file) => {
    const analysis = await analyzeDirectory(join(sharedData, file));
    const own = analysis.problems.filter(({ severity, path }) => severity === "unsupported" && path === "");
    expect(own).toHaveLength(analysis.unsupported);
    for (const problem of own) expect(problem.location).toMatch(/^[^/]+\.ya?ml:\d+$/);
  });
});

describe("a directory", () => {
  let directory: string;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "meltemi-analyze-"));
  });

  afterEach(() => rm(directory, { recursive: true, force: true }));

  async function write(path: string, text: string): Promise<void> {
    await mkdir(dirname(join(directory, path)), { recursive: true });
    await writeFile(join(directory, path), text);
  }

  test("with everything that can be wrong is named line by line", async () => {
    await write(
      "a/pods.yaml",
      "apiVersion: v1\nkind: Pods\nmetadata: { name: a }\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: { name: cart, namespace: shop }\n",
    );
    await write(
      "chart/deploy.yaml",
      "apiVersion: v1\nkind: Service\n{{- if .Values.x }}\nmetadata: { name: a }\n{{- end }}\n",
    );
    await write("values.yaml", "image:\n  tag: 1\n");
    await write("empty.yaml", "# nothing\n");
    await write(
      "list.json",
      '{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"shop"}},{"kind":"Service"}]}',
    );
    await write("text.yaml", "just words\n");
    const analysis = await analyzeDirectory(directory);
    expect(analysis).toMatchObject({ files: 6, objects: 7, understood: 1, unsupported: 2, refused: 4 });
    expect(lines(analysis).sort()).toEqual([
      'error: a/pods.yaml:2: Pods a: kind (is "Pods"): v1 has no such kind; did you mean "Pod"?',
      expect.stringMatching(
        /^error: chart\/deploy\.yaml:\d+: is not YAML but a template .*; render it first, such as with `helm template`$/,
      ) as string,
      "error: list.json:1: Service (no name): items[1].apiVersion: is missing; such as v1 or security.istio.io/v1",
      'error: text.yaml:1 (is "just words"): is not a Kubernetes object; an object has apiVersion, kind and metadata',
      "unsupported: a/pods.yaml:5: Deployment shop/cart: Deployment is not supported yet; Meltemi runs no workloads: list the Pods themselves",
      "unsupported: values.yaml:1: is not a Kubernetes object (it begins with image) and is not read",
    ]);
    expect(analysisExitCode(analysis)).toBe(1);
  });

  test("has its objects checked against each other, with the line of the field", async () => {
    await write(
      "shop.yaml",
      [
        "apiVersion: v1",
        "kind: Namespace",
        "metadata: { name: shop }",
        "---",
        "apiVersion: security.istio.io/v1",
        "kind: PeerAuthentication",
        "metadata:",
        "  name: strict",
        "  namespace: shop",
        "spec:",
        "  mtls: { mode: STRICT }",
        "  selector:",
        "    matchLabels:",
        "      app: absent",
        "",
      ].join("\n"),
    );
    const analysis = await analyzeDirectory(directory);
    expect(lines(analysis)).toEqual([
      "warning: shop.yaml:13: PeerAuthentication shop/strict: spec.selector.matchLabels (is app=absent): selects no pod: it has no effect; compare it with the pods' labels",
    ]);
    expect(analysisExitCode(analysis)).toBe(0);
  });

  test("is told as a table, as JSON and as YAML", async () => {
    await write(
      "a.yaml",
      "apiVersion: v1\nkind: Namespace\nmetadata: { name: shop }\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: { name: c }\n",
    );
    const analysis = await analyzeDirectory(directory);
    expect(formatAnalysis(analysis, "table")).toBe(
      [
        "unsupported: a.yaml:5: ConfigMap c: ConfigMap is not read; only istio-system/istio and meltemi-system/meltemi are read, the mesh's own settings",
        "",
        "KIND       UNDERSTOOD  NOT YET  REFUSED",
        "ConfigMap           -        1        -",
        "Namespace           1        -        -",
        "",
        "2 objects in 1 file: 1 understood, 1 not supported yet, 0 refused; 0 errors, 0 warnings",
        "",
      ].join("\n"),
    );
    expect(JSON.parse(formatAnalysis(analysis, "json"))).toEqual(JSON.parse(JSON.stringify(analysis)));
    expect(parse(formatAnalysis(analysis, "yaml"))).toEqual(JSON.parse(JSON.stringify(analysis)));
  });

  test("that is not there is an error", async () => {
    await expect(analyzeDirectory(join(directory, "absent"))).rejects.toThrow(/cannot list .*absent/);
  });
});
