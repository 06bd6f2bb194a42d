import { describe, expect, it } from "vitest";
import { SeededRandom, steadyRandom } from "../../test/helpers/seeded-random.js";
import { backoffMs, jitter, systemRandom, type Random } from "./random.js";

const sources: [string, () => Random][] = [
  ["systemRandom", () => systemRandom],
  ["SeededRandom", () => new SeededRandom(7)],
];

describe.each(sources)("%s", (_name, make) => {
  it("gives bytes, fractions and ids of the right shape", () => {
    const random = make();
    expect(random.bytes(16)).toHaveLength(16);
    expect(random.bytes(16)).not.toEqual(random.bytes(16));
    for (let i = 0; i < 200; i++) {
      const fraction = random.uniform();
      expect(fraction).toBeGreaterThanOrEqual(0);
      expect(fraction).toBeLessThan(1);
    }
    expect(random.uuid()).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  });
});

describe("jitter and backoff", () => {
  it("stays within its bounds", () => {
    expect(jitter(steadyRandom(0), 1000, 0.1)).toBeCloseTo(900);
    expect(jitter(steadyRandom(0.5), 1000, 0.1)).toBeCloseTo(1000);
    expect(backoffMs(steadyRandom(0), 0, 100, 5000)).toBe(50);
    expect(backoffMs(steadyRandom(0), 3, 100, 5000)).toBe(400);
    expect(backoffMs(steadyRandom(0.999999), 1000, 100, 5000)).toBeLessThanOrEqual(5000);
  });
});
