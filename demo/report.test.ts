import { describe, expect, it } from "vitest";
import { renderJson, renderTable } from "./report.js";

const good = { name: "policy", expected: "refused", seen: "refused", ok: true };
const bad = { name: "wire", expected: "TLS only", seen: "the marker in plaintext", ok: false };

describe("the demo's report", () => {
  it("is ok as JSON only when every row is", () => {
    expect(JSON.parse(renderJson([good]))).toEqual({ rows: [good], ok: true });
    expect(JSON.parse(renderJson([good, bad]))).toEqual({ rows: [good, bad], ok: false });
  });

  it("names a failed row with what was expected and seen", () => {
    const table = renderTable([good, bad]);
    expect(table).toMatch(/FAIL.*wire/);
    expect(table).toContain("the marker in plaintext");
  });
});
