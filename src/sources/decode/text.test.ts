import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { expect, test } from "vitest";
import { decodeText, type DecodedText } from "./text.js";

function heapAfterCollection(): number {
  setFlagsFromString("--expose-gc");
  (runInNewContext("gc") as () => void)();
  return process.memoryUsage().heapUsed;
}

const document = (index: number, version: string): string =>
  `apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: account-with-a-long-name-${index}-${version}\n  namespace: shop\n  annotations:\n    note: ${"x".repeat(1500)}\n`;

test("what is decoded keeps its own document's text alive, and no version of the whole file", () => {
  const documents = Array.from({ length: 200 }, (_, index) => document(index, "first"));
  let decoded: DecodedText | undefined = decodeText(documents.join("---\n"), "f.yaml", { origin: "files" });
  const before = heapAfterCollection();
  for (let index = 0; index < documents.length; index++) {
    documents[index] = document(index, "second");
    decoded = decodeText(documents.join("---\n"), "f.yaml", { origin: "files" }, decoded);
  }
  expect(decoded.objects).toHaveLength(200);
  // Each version of the file is 300 kB long.
  expect(heapAfterCollection() - before).toBeLessThan(5_000_000);
});

test("lines are of the file as it is now, for documents that stand unchanged too", () => {
  const options = { origin: "files" } as const;
  const before = decodeText(`${document(0, "a")}---\n${document(1, "a")}`, "f.yaml", options);
  const after = decodeText(
    `# one\n# two\n${document(0, "a")}---\n${document(1, "a")}`,
    "f.yaml",
    options,
    before,
  );
  expect(after.objects[1]?.decoded).toBe(before.objects[1]?.decoded);
  expect(after.objects.map(({ line }) => line)).toEqual([3, 11]);
  expect(after.objects[1]?.locationOf("metadata.name")).toBe("f.yaml:14");
});
