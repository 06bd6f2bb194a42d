import { setImmediate as turn } from "node:timers/promises";
import { expect, test } from "vitest";
import { namespace, pod } from "../../../test/helpers/mesh-objects.js";
import { RecordingLogger } from "../../../test/helpers/recording-logger.js";
import { VirtualClock } from "../../../test/helpers/virtual-clock.js";
import { defaultEnrolmentRules } from "../../domain/enrolment.js";
import type { MeshObject } from "../../domain/objects.js";
import { StandingChecks } from "./standing-checks.js";

function standing(count: number): {
  readonly clock: VirtualClock;
  readonly log: RecordingLogger;
  readonly checks: StandingChecks;
  readonly objects: MeshObject[];
  readonly runs: { count: number };
} {
  const clock = new VirtualClock();
  const log = new RecordingLogger();
  const runs = { count: 0 };
  const objects: MeshObject[] = [namespace("shop", { "istio.io/dataplane-mode": "ambient" })];
  // All with one address: one problem each but the first.
  for (let index = 0; index < count; index++) objects.push(pod("shop", `p-${index}`, "10.0.0.1", {}));
  const checks = new StandingChecks({
    objects: () => {
      runs.count++;
      return objects;
    },
    checks: {
      rootNamespaces: ["istio-system"],
      trustDomain: "cluster.local",
      enrolment: defaultEnrolmentRules,
      standalone: false,
    },
    clock,
    log,
    signal: new AbortController().signal,
  });
  return { clock, log, checks, objects, runs };
}

/** Until a run that has begun has ended: it takes one turn of the event loop a step. */
async function ended(): Promise<void> {
  for (let turns = 0; turns < 100; turns++) await turn();
}

test("changes that come together are checked once, after a while, and again no sooner than after a pause", async () => {
  const { clock, checks, objects, runs } = standing(3);
  checks.changed();
  checks.changed();
  await clock.advance(499);
  expect(runs.count).toBe(0);
  await clock.advance(1);
  await ended();
  expect([runs.count, checks.problems.length]).toEqual([1, 2]);
  objects.pop();
  checks.changed();
  await clock.advance(2_999);
  expect(runs.count).toBe(1);
  await clock.advance(1);
  await ended();
  expect([runs.count, checks.problems.length]).toEqual([2, 1]);
  await clock.advance(60_000);
  expect(runs.count).toBe(2);
});

test("a run of thousands leaves turns to others, and a change meanwhile is looked at by the next", async () => {
  const { clock, checks, objects, runs } = standing(5_000);
  checks.changed();
  await clock.advance(500);
  await turn();
  expect([runs.count, checks.problems.length]).toEqual([1, 0]);
  objects.length = 1;
  checks.changed();
  await ended();
  expect([runs.count, checks.problems.length]).toEqual([1, 4_999]);
  await clock.advance(3_000);
  await ended();
  expect([runs.count, checks.problems.length]).toEqual([2, 0]);
});

test("what is new is logged, the first twenty of it, and once", async () => {
  const { clock, log, checks } = standing(41);
  for (let round = 0; round < 2; round++) {
    checks.changed();
    await clock.advance(3_000);
    await ended();
  }
  const lines = log.records.map(({ message, fields }) =>
    message === "configuration problem" ? "one" : fields["count"],
  );
  expect(lines).toEqual([...Array<string>(20).fill("one"), 20]);
});
