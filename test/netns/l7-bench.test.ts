/** `npm run bench -- l7 --quick` without Envoy: that it measures at all, not how much. */
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { execa } from "execa";
import { expect, onTestFinished, test } from "vitest";
import { renderL7Table } from "../../bench/l7/table.js";
import type { RawRuns } from "../../bench/report/raw.js";

const root = fileURLToPath(new URL("../../", import.meta.url));

test("a quick run of the L7 benchmark gives numbers, and a table that can be computed again", async () => {
  // Outside /tmp, which the benchmark's own sandbox hides. Its sandbox takes its processes with it.
  mkdirSync(join(root, ".cache"), { recursive: true });
  const results = mkdtempSync(join(root, ".cache/bench-"));
  onTestFinished(() => rmSync(results, { recursive: true }));
  const run = await execa(
    process.execPath,
    [
      ...[join(root, "scripts/sandbox.mjs"), process.execPath, join(root, "dist/bench/main.js")],
      ...["l7", "--quick", "--envoy", "none"],
      ...["--binaries", join(root, "target/release"), "--results", results],
    ],
    { reject: false },
  );
  const written = join(results, "l7");
  const files = readdirSync(written);
  const read = (ending: string): string =>
    readFileSync(join(written, files.find((name) => name.endsWith(ending)) ?? "none"), "utf8");
  const raw = JSON.parse(read(".json")) as RawRuns;
  const { direct, meltemi } = raw.rounds[0]!.contenders;
  expect([direct?.voided, meltemi?.voided], run.stderr).toEqual([[], []]);
  for (const form of ["mtls", "plain"]) {
    for (const protocol of ["http1", "http2", "grpc"]) {
      const key = `${form}_${protocol}`;
      for (const { values } of [direct!, meltemi!]) {
        expect(values[`${key}_most_per_s`], key).toBeGreaterThan(0);
        expect(values[`${key}_paced_p50_ms`], key).toBeGreaterThan(0);
      }
      expect(meltemi!.values[`${key}_most_cpu_us`], key).toBeGreaterThan(0);
    }
  }
  for (const key of ["idle_mb", "under_load_mb", "many_routes_mb", "many_routes_per_s", "change_ms"])
    expect(meltemi!.values[key], key).toBeGreaterThan(0);
  expect(renderL7Table(raw)).toBe(read(".md"));
  expect(run.stdout).toContain("HTTP/1.1: most requests/s");
});
