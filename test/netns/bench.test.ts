/** `npm run bench -- --quick` without peers: that it measures at all, not how much. */
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { execa } from "execa";
import { expect, onTestFinished, test } from "vitest";
import type { RawRuns } from "../../bench/report/raw.js";
import { renderTable } from "../../bench/report/table.js";

const root = fileURLToPath(new URL("../../", import.meta.url));

test("a quick run of the L4 benchmark gives numbers, and a table that can be computed again", async () => {
  // Outside /tmp, which the benchmark's own sandbox hides. Its sandbox takes its namespaces and routes with it.
  mkdirSync(join(root, ".cache"), { recursive: true });
  const results = mkdtempSync(join(root, ".cache/bench-"));
  onTestFinished(() => rmSync(results, { recursive: true }));
  const run = await execa(
    process.execPath,
    [
      ...[join(root, "scripts/sandbox.mjs"), process.execPath, join(root, "dist/bench/main.js")],
      "l4",
      "--quick",
      ...["--envoy", "none", "--binaries", join(root, "target/release"), "--results", results],
    ],
    { reject: false },
  );
  expect(run.exitCode, run.stderr).toBe(0);
  const files = readdirSync(results);
  const read = (ending: string): string =>
    readFileSync(join(results, files.find((name) => name.endsWith(ending)) ?? "none"), "utf8");
  const raw = JSON.parse(read(".json")) as RawRuns;
  const { direct, meltemi } = raw.rounds[0]!.contenders;
  expect([direct?.voided, meltemi?.voided]).toEqual([[], []]);
  for (const key of ["up_1_gbit_s", "down_8_gbit_s", "paced_p50_ms", "most_per_s", "new_per_s"])
    for (const { values } of [direct!, meltemi!]) expect(values[key], key).toBeGreaterThan(0);
  for (const key of ["up_1_cpu_s_per_gb", "most_cpu_us", "fresh_mb", "agent_fresh_mb", "after_mb"])
    expect(meltemi!.values[key], key).toBeGreaterThan(0);
  expect(meltemi!.evidence[0]).toMatchObject({ wire: { marker_found: false } });
  expect(direct!.evidence[0]).toMatchObject({ wire: { marker_found: true } });
  expect(renderTable(raw)).toBe(read(".md"));
  expect(run.stdout).toContain("1 stream up, Gbit/s");
});
