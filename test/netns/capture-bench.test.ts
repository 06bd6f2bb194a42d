/** `npm run bench -- capture --quick`: that it measures at all, not how much. */
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { execa } from "execa";
import { expect, onTestFinished, test } from "vitest";
import { renderCaptureTable } from "../../bench/capture/table.js";
import type { RawRuns } from "../../bench/report/raw.js";
import { workingModes } from "./working-modes.js";

const root = fileURLToPath(new URL("../../", import.meta.url));

test("a quick run of the capture benchmark gives numbers of every mode, and a table that can be computed again", async () => {
  // Outside /tmp, which the benchmark's own sandbox hides. Its sandbox takes its namespaces and routes with it.
  mkdirSync(join(root, ".cache"), { recursive: true });
  const results = mkdtempSync(join(root, ".cache/bench-"));
  onTestFinished(() => rmSync(results, { recursive: true }));
  const modes = workingModes();
  const sandboxed = [join(root, "scripts/sandbox.mjs"), process.execPath, join(root, "dist/bench/main.js")];
  const options = ["--binaries", join(root, "target/release"), "--results", results, "--modes", modes.join()];
  const run = await execa(process.execPath, [...sandboxed, "capture", "--quick", ...options], {
    reject: false,
  });
  expect(run.exitCode, run.stderr).toBe(0);
  const files = readdirSync(results);
  const read = (ending: string): string =>
    readFileSync(join(results, files.find((name) => name.endsWith(ending)) ?? "none"), "utf8");
  const raw = JSON.parse(read(".json")) as RawRuns;
  const { contenders } = raw.rounds[0]!;
  expect(Object.keys(contenders)).toEqual(["direct", ...modes]);
  for (const mode of modes) {
    const { voided, values, evidence } = contenders[mode]!;
    expect(voided, mode).toEqual([]);
    expect(evidence[0], mode).toMatchObject({ mode });
    for (const key of ["new_per_s", "captured_gbit_s", "excluded_gbit_s", "first_connection_ms"])
      expect(values[key], `${mode} ${key}`).toBeGreaterThan(0);
    expect(values["many_pods"]).toBe(20);
    if (mode === "bpf") expect(values["conntrack_entries"]).toBe(0);
    else expect(values["conntrack_entries"], mode).toBeGreaterThan(0);
  }
  expect(renderCaptureTable(raw)).toBe(read(".md"));
});
