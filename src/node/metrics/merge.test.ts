import { describe, expect, it } from "vitest";
import { mergeExpositions } from "./merge.js";

describe("merging Prometheus texts", () => {
  it("writes a family that occurs in both once, with all its samples together", () => {
    const own =
      '# HELP x_total Own words.\n# TYPE x_total counter\nx_total{from="agent"} 1\n# TYPE y gauge\ny 2\n';
    const proxy =
      '# HELP x_total Other words.\n# TYPE x_total counter\nx_total{from="proxy"} 3\n# TYPE z gauge\nz 4\n';
    expect(mergeExpositions([own, proxy])).toBe(
      '# HELP x_total Own words.\n# TYPE x_total counter\nx_total{from="agent"} 1\nx_total{from="proxy"} 3\n# TYPE y gauge\ny 2\n# TYPE z gauge\nz 4\n',
    );
  });

  it("keeps a histogram's samples with it, also when they come without their heads the second time", () => {
    const histogram = '# TYPE h histogram\nh_bucket{le="1"} 1\nh_sum 1\nh_count 1\n';
    expect(mergeExpositions([histogram, "", "plain 1\n"])).toBe(`${histogram}plain 1\n`);
  });

  it("drops comments, blank lines and OpenMetrics' end", () => {
    expect(mergeExpositions(["# a comment\n\na 1\n# EOF\n", "b 2"])).toBe("a 1\nb 2\n");
  });

  it("is empty for nothing", () => {
    expect(mergeExpositions(["", "\n"])).toBe("");
  });
});
