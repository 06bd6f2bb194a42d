import { describe, expect, it } from "vitest";
import type { CaptureSettings } from "../mode.js";
import { parseListing } from "./listing.js";
import { applyScript } from "./ruleset.js";

const plain: CaptureSettings = {
  addresses: ["10.0.0.2"],
  excludeInboundPorts: [],
  excludeOutboundPorts: [],
  excludeOutboundCidrs: [],
  bypassInbound: false,
  udp: "pass",
};

const listing = (packets: number): string => `table inet meltemi {
	counter c_unserved {
		packets ${packets} bytes 80
	}

	counter c_proxy_port {
		packets 0 bytes 0
	}

	counter c_of_a_newer_agent {
		packets 3 bytes 0
	}

	chain redirect_out {
		tcp flags syn / fin,syn,rst,ack redirect to :15001
	}
}
`;

describe("the capture table", () => {
  it("is the same whatever its counters say, and not when a rule differs", () => {
    expect(parseListing(listing(7)).rules).toBe(parseListing(listing(0)).rules);
    expect(parseListing(listing(0).replace("15001", "15002")).rules).not.toBe(parseListing(listing(0)).rules);
  });

  it("gives the packets dropped, by the reasons that are known", () => {
    expect([...parseListing(listing(7)).counts]).toEqual([
      ["unserved", 7],
      ["proxy_port", 0],
    ]);
  });

  it("is replaced in one transaction, and only it is touched", () => {
    for (const form of ["redirecting", "draining"] as const) {
      const script = applyScript(plain, form);
      expect(
        script.startsWith("add table inet meltemi\ndelete table inet meltemi\ntable inet meltemi {\n"),
      ).toBe(true);
      expect(script.match(/^(add|delete|flush|table)\b.*$/gm)).toHaveLength(3);
    }
  });

  it("redirects and drops nothing while draining", () => {
    expect(applyScript(plain, "draining")).not.toMatch(/redirect to|tproxy|\bdrop\b|reject/);
  });

  it("lets nothing pass where nobody listens: the transparent rule is followed by one that refuses", () => {
    const [before = "", after = ""] = applyScript(plain, "redirecting").split("tproxy to :15006 accept\n");
    expect(before).not.toContain("0x53c");
    expect(after).toMatch(/^ *tcp flags .* == syn meta mark set .* \| 0x53c\n/);
    expect(after).toMatch(/0x53c .*reject with tcp reset/);
  });

  it("leaves out what its owner excluded, each before the rule that would capture it", () => {
    const script = applyScript(
      {
        ...plain,
        excludeInboundPorts: [22, 9100],
        excludeOutboundPorts: [25],
        excludeOutboundCidrs: ["10.9.0.0/16", "10.9.1.0/24", "fd00:9::/32"],
      },
      "redirecting",
    );
    const place = (text: string): number => {
      expect(script).toContain(text);
      return script.indexOf(text);
    };
    expect(place("tcp dport { 22, 9100 } accept")).toBeLessThan(place("tproxy to"));
    for (const rule of [
      "tcp dport { 25 } accept",
      "ip daddr 10.9.0.0/16 accept",
      "ip daddr 10.9.1.0/24 accept",
      "ip6 daddr fd00:9::/32 accept",
    ]) {
      expect(place(rule)).toBeLessThan(place("redirect to :15001"));
    }
    const bypass = applyScript({ ...plain, bypassInbound: true }, "redirecting");
    expect(bypass.split("tproxy to")[0]).toMatch(/tcp dport 15008 accept\n +accept\n/);
  });
});
