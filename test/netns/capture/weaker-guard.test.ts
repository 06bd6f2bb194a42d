/**
 * The attackers' table against the guard without BPF, on nodes that are told to use none: what it holds, and what it
 * does not. Which row is which is stated in docs/threat-model.md, generated from the run, and a row that changes its
 * side fails the last test. Without guard and redirection each attempt must be seen to come through.
 */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { eventually } from "../../helpers/eventually.js";
import { atOnce } from "../scale/senders.js";
import type { Attack } from "./attacks/attack.js";
import { inward } from "./attacks/inward.js";
import { attempt, defences, disarm, rearm, startAttackLab } from "./attacks/lab.js";
import { outward } from "./attacks/outward.js";
import type { Family } from "./cases/case.js";
import type { Lab } from "./lab/lab.js";
import { writeResults } from "./lab/results.js";
import { placeOf } from "./lab/world.js";

const families: readonly Family[] = [4, 6];
const rows = [...outward, ...inward];
/** Each row has a marker and a capture of its own, so several can be tried at the same time. */
const triedAtOnce = 6;
const triesOfEach = 3;

interface Outcome {
  readonly attack: string;
  readonly from: string;
  readonly family: Family;
  readonly attempted: number;
  readonly cameThrough: number;
  readonly without: number;
}
const outcomes: Outcome[] = [];

describe("without BPF", () => {
  let lab: Lab;
  let intact: ReadonlyMap<string, string>;
  const without = new Map<string, number>();
  const keyOf = (row: Attack, family: Family): string => `${row.name} over IPv${family}`;
  const rowsOver = (family: Family): readonly Attack[] =>
    rows.filter((row) => (row.families ?? families).includes(family));

  beforeAll(async () => {
    lab = await startAttackLab("aw", ["--no-bpf"]);
    for (const name of ["attacker", "server"])
      expect(await lab.podStatus(name)).toMatchObject({ mode: "nftables", guard: "nftables" });
    intact = await defences(lab);
  });
  afterAll(() => lab.down());

  describe("and without guard and redirection", () => {
    beforeAll(() => disarm(lab, "guard and redirection"));
    afterAll(() => rearm(lab, intact));
    test.each(families)("every attempt comes through over IPv%i", async (family) => {
      const place = placeOf(lab, "nftables", family);
      await atOnce(triedAtOnce, rowsOver(family), async (row) => {
        // What is to come through may be lost on its way once, as everything on a network may.
        const { bytes } = await eventually(
          `${keyOf(row, family)} to come through`,
          async () => {
            const seen = await attempt(row, place, `w3aker-off-${rows.indexOf(row)}-`);
            return seen.attempted > 0 && seen.bytes > 0 && seen;
          },
          20_000,
        );
        without.set(keyOf(row, family), bytes);
      });
    });
  });

  test.each(families)("what the weaker guard stops over IPv%i is known", async (family) => {
    const place = placeOf(lab, "nftables", family);
    const seen = await atOnce(triedAtOnce, rowsOver(family), async (row): Promise<Outcome> => {
      // A row that is not held may lose its packets all the same: only one that never comes through is.
      let [attempted, bytes] = [0, 0];
      for (let tries = 0; tries < triesOfEach && bytes === 0; tries += 1) {
        const one = await attempt(row, place, `w3aker-on-${rows.indexOf(row)}-`);
        expect(one.attempted, row.name).toBeGreaterThan(0);
        attempted += one.attempted;
        bytes = one.bytes;
      }
      return {
        attack: row.name,
        from: row.from,
        family,
        attempted,
        cameThrough: bytes,
        without: without.get(keyOf(row, family)) ?? 0,
      };
    });
    outcomes.push(...seen);
  });

  test("every row has its outcome", async () => {
    expect(outcomes).toHaveLength(families.reduce((sum, family) => sum + rowsOver(family).length, 0));
    expect(await defences(lab)).toEqual(intact);
    // In the order of the other table, for whoever compares the two.
    const order = [...outcomes].sort(
      (a, b) =>
        rows.findIndex(({ name }) => name === a.attack) - rows.findIndex(({ name }) => name === b.attack),
    );
    writeResults("weaker", order);
  });
});
