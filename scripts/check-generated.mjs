// src/gen is what proto/ generates: generates it again and compares.
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { root } from "./setup.mjs";

const directory = mkdtempSync(join(tmpdir(), "meltemi-gen-"));
try {
  const template = readFileSync(join(root, "proto/buf.gen.yaml"), "utf8").replace(
    "out: src/gen",
    `out: ${directory}/gen`,
  );
  writeFileSync(join(directory, "buf.gen.yaml"), template);
  execFileSync(
    join(root, "node_modules/.bin/buf"),
    ["generate", "proto", "--template", join(directory, "buf.gen.yaml")],
    { cwd: root },
  );
  execFileSync("diff", ["-r", join(root, "src/gen"), join(directory, "gen")], { stdio: "inherit" });
} catch {
  process.stderr.write("src/gen differs from what proto/ generates: run npm run generate and commit\n");
  process.exitCode = 1;
} finally {
  rmSync(directory, { recursive: true });
}
