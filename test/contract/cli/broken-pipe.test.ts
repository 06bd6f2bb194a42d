/** A reader that has seen enough, as `| head` does, ends a command without an error. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { meltemi } from "../../helpers/control-plane-process.js";
import { scratchDirectory } from "../../helpers/scratch.js";

test.each(["table", "json", "yaml"])("analyze -o %s into a closed pipe", async (format) => {
  const directory = scratchDirectory();
  const document = "apiVersion: v1\nkind: Pod\nmetadata: { name: UPPER }\n";
  writeFileSync(join(directory, "many.yaml"), Array<string>(3_000).fill(document).join("---\n"));
  const child = spawn(process.execPath, [meltemi, "analyze", directory, "-o", format]);
  let errors = "";
  child.stderr.on("data", (chunk: Buffer) => (errors += chunk.toString()));
  await once(child.stdout, "readable");
  child.stdout.destroy();
  const [code] = (await once(child, "close")) as [number | null];
  expect([code, errors]).toEqual([1, ""]);
});
