import { describe, expect, it } from "vitest";
import type { Ability, NodeSupport } from "../node/capture/support.js";
import { doctorView } from "./doctor.js";

const yes: Ability = { works: true, reason: "it loads" };
const no = (reason: string): Ability => ({ works: false, reason, fix: `do something about ${reason}` });
const node = (fields: Partial<NodeSupport>): NodeSupport => ({
  bpf: yes,
  nftables: yes,
  iptables: { ...yes, variant: "nft" },
  nftablesGuard: yes,
  ...fields,
});
const chosen = (support: NodeSupport, wanted: Parameters<typeof doctorView>[1] = "auto") =>
  doctorView(support, wanted).sections[1]?.rows[0];

describe("the doctor of a node", () => {
  it("says what an agent would choose: the first mode that works, with the strong guard where BPF does", () => {
    expect(chosen(node({}))).toEqual(["bpf", "bpf", "it loads"]);
    expect(chosen(node({}), "iptables")).toEqual(["iptables", "bpf", "asked for"]);
    const old = node({ bpf: no("an old kernel") });
    expect(chosen(old)?.slice(0, 2)).toEqual(["nftables", "nftables"]);
    expect(chosen(old)?.[2]).toMatch(/^bpf: an old kernel; the guard is the weaker form/);
    expect(doctorView(old, "auto").notes[0]).toMatch(/NET_RAW/);
  });

  it("says what does not work, why, and what to do", () => {
    const view = doctorView(node({ bpf: no("an old kernel"), nftables: no("no nft") }), "auto");
    expect(view.sections[0]?.rows.slice(0, 2)).toEqual([
      ["mode bpf", "no", "an old kernel", "do something about an old kernel"],
      ["mode nftables", "no", "no nft", "do something about no nft"],
    ]);
    expect(view.data).toMatchObject({ choice: { mode: "iptables" }, nftables: { works: false } });
  });

  it("chooses nothing where what is asked for does not work", () => {
    const view = doctorView(node({ nftables: no("no nft") }), "nftables");
    expect(view.sections[1]?.rows).toEqual([]);
    expect(view.data).toMatchObject({ choice: null });
  });
});
