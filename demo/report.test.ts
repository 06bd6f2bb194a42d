import { describe, expect, it } from "vitest";
import { captureLine, renderJson, renderTable } from "./report.js";

const good = { name: "policy", expected: "refused", seen: "refused", ok: true };
const bad = { name: "wire", expected: "TLS only", seen: "the marker in plaintext", ok: false };

const capture = { mode: "bpf", guard: "bpf", reason: "" };

describe("the demo's report", () => {
  it("is ok as JSON only when every row is", () => {
    expect(JSON.parse(renderJson([good], capture))).toEqual({ rows: [good], ok: true, capture });
    expect(JSON.parse(renderJson([good, bad], capture))).toEqual({ rows: [good, bad], ok: false, capture });
  });

  it("names a failed row with what was expected and seen", () => {
    const table = renderTable([good, bad]);
    expect(table).toMatch(/FAIL.*wire/);
    expect(table).toContain("the marker in plaintext");
  });

  it("says how the pods are captured, and why not otherwise", () => {
    expect(captureLine(capture)).toBe("redirection bpf, guard BPF at the host's end of the pods' links");
    expect(captureLine({ mode: "nftables", guard: "nftables", reason: "no CAP_BPF" })).toBe(
      "redirection nftables, guard nftables, the weaker form (no CAP_BPF)",
    );
  });
});
