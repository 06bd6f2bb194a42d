/**
 * The attackers' table: everything is tried as root in an unprivileged pod, with the guard and without.
 * Without it each attack must be seen to come through, or the test would prove nothing.
 */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { attempt, defences, disarm, linked, rearm, startAttackLab } from "./attacks/lab.js";
import { inward } from "./attacks/inward.js";
import { outward } from "./attacks/outward.js";
import type { Family, Place } from "./cases/case.js";
import { trials } from "./attacks/trials.js";
import { eventually } from "../../helpers/eventually.js";
import { get } from "./lab/kit.js";
import { writeResults } from "./lab/results.js";
import type { Lab } from "./lab/lab.js";
import { placeOf, ports } from "./lab/world.js";

const families: readonly Family[] = [4, 6];
const rows = [...outward, ...inward].flatMap((row) =>
  (row.families ?? families)
    .filter((family) => families.includes(family))
    .map((family) => ({ ...row, family })),
);

let lab: Lab;
let intact: ReadonlyMap<string, string>;
beforeAll(async () => {
  lab = await startAttackLab();
  await linked(lab);
  intact = await defences(lab);
});
afterAll(() => lab.down());

/** Unlike any other row's, and any other try's of the same row. */
const markerOf = (index: number, form: string): string => `s3cret-${form}-${index}-`;

/** A line of the table, as scripts/threat-tables.mjs reads it. */
interface Outcome {
  readonly attack: string;
  readonly from: string;
  readonly family: Family;
  readonly stoppedBy: string;
  readonly attempted: number;
  readonly unit: string;
  readonly cameThrough: number;
  readonly counted: string;
  readonly without: number;
}

const outcomes: Outcome[] = [];
const cameThroughWithout = new Map<string, number>();
const keyOf = ({ name, family }: { name: string; family: Family }): string => `${name} over IPv${family}`;
const place = (family: Family): Place => placeOf(lab, "bpf", family);

describe("without what stands in the way", () => {
  for (const stands of ["guard", "guard and redirection"] as const)
    describe(stands, () => {
      beforeAll(() => disarm(lab, stands));
      afterAll(() => rearm(lab, intact));
      const mine = rows.filter((row) => row.stands === stands);
      test.each(mine)("$name comes through over IPv$family", async (row) => {
        // What is to come through may be lost on its way once, as everything on a network may.
        const seen = await eventually(
          "it to come through",
          async () => {
            const one = await attempt(row, place(row.family), markerOf(rows.indexOf(row), "off"));
            return (one.attempted === 0 || one.bytes > 0) && one;
          },
          20_000,
        );
        expect(seen.attempted).toBeGreaterThan(0);
        expect(seen.bytes).toBeGreaterThan(0);
        cameThroughWithout.set(keyOf(row), seen.bytes);
      });
    });
});

describe("with the guard", () => {
  test.each(rows)("$name is stopped and counted over IPv$family", async (row) => {
    const node = lab.pod(row.guardOf).node.name;
    const counts = (): Promise<number[]> =>
      Promise.all(
        row.counted.map((reason) => lab.metric(node, `meltemi_capture_dropped_total{reason="${reason}"}`)),
      );
    const before = await counts();
    const seen = await attempt(row, place(row.family), markerOf(rows.indexOf(row), "on"));
    expect(seen.attempted).toBeGreaterThan(0);
    expect(seen.bytes, `bytes of the marker that came through (${row.watched.at})`).toBe(0);
    const counted = await eventually(`${row.counted.join(" or ")} to be counted on ${node}`, async () => {
      const now = await counts();
      return row.counted.find((_, index) => (now[index] ?? 0) > (before[index] ?? 0));
    });
    outcomes.push({
      attack: row.name,
      from: row.from,
      family: row.family,
      stoppedBy: "guard",
      attempted: seen.attempted,
      unit: "bytes of the marker",
      cameThrough: seen.bytes,
      counted,
      without: cameThroughWithout.get(keyOf(row)) ?? 0,
    });
  });
});

describe.each(families)("what is not the guard's to hold, over IPv%i", (family) => {
  test.each(trials)("$name", async (trial) => {
    const control = await trial.control(place(family), markerOf(trials.indexOf(trial), `without-${family}`));
    expect(control.attempted).toBeGreaterThan(0);
    expect(control.cameThrough, `${trial.unit}, without what stops it`).toBeGreaterThan(0);
    const seen = await trial.tried(place(family), markerOf(trials.indexOf(trial), `tried-${family}`));
    expect(seen.attempted).toBeGreaterThan(0);
    expect(seen.cameThrough, trial.unit).toBe(0);
    outcomes.push({
      attack: trial.name,
      from: trial.from,
      family,
      stoppedBy: trial.stoppedBy,
      attempted: seen.attempted,
      unit: trial.unit,
      cameThrough: seen.cameThrough,
      counted: "",
      without: control.cameThrough,
    });
  });
});

test("every row has its outcome, and the mesh works as before", async () => {
  expect(outcomes).toHaveLength(rows.length + trials.length * families.length);
  expect(await defences(lab)).toEqual(intact);
  for (const family of families) {
    const url = `http://${place(family).at("server", ports.http)}/`;
    expect(await get(lab.pod("attacker").netns, url, "--keepalive", "false")).toMatchObject({ status: 200 });
  }
  writeResults("attacks", outcomes);
});
