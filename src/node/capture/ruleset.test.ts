import { describe, expect, it } from "vitest";
import { countCarried } from "./carried.js";
import { addRouting, missingRouting, removeRouting } from "./routing.js";
import { applyScript, parseListing } from "./ruleset.js";

const listing = (packets: number): string => `table inet meltemi {
	counter ipv6_tcp_in {
		packets ${packets} bytes 80
	}

	counter proxy_port_in {
		packets 0 bytes 0
	}

	chain redirect_out {
		meta nfproto ipv4 tcp flags syn / fin,syn,rst,ack redirect to :15001
	}
}
`;

describe("the capture table", () => {
  it("is the same whatever its counters say, and not when a rule differs", () => {
    expect(parseListing(listing(7)).rules).toBe(parseListing(listing(0)).rules);
    expect(parseListing(listing(0).replace("15001", "15002")).rules).not.toBe(parseListing(listing(0)).rules);
  });

  it("gives the packets dropped, by reason", () => {
    expect([...parseListing(listing(7)).drops]).toEqual([
      ["ipv6_tcp_in", 7],
      ["proxy_port_in", 0],
    ]);
  });

  it("is replaced in one transaction, and only it is touched", () => {
    for (const form of ["redirecting", "draining"] as const) {
      const script = applyScript(form);
      expect(
        script.startsWith("add table inet meltemi\ndelete table inet meltemi\ntable inet meltemi {\n"),
      ).toBe(true);
      expect(script.match(/^(add|delete|flush|table)\b.*$/gm)).toHaveLength(3);
    }
  });

  it("redirects and drops nothing while draining", () => {
    expect(applyScript("draining")).not.toMatch(/redirect to|\bdrop\b/);
  });
});

describe("policy routing", () => {
  const rule = "32764:\tfrom all fwmark 0x111/0xfff lookup 100 \n";
  const route = "local default dev lo scope host \n";

  it("adds what is missing, the route first, and removes what is there", () => {
    expect(addRouting(missingRouting(""))).toBe(
      "route add local 0.0.0.0/0 dev lo table 100\nrule add fwmark 0x111/0xfff pref 32764 lookup 100\n",
    );
    expect(addRouting(missingRouting(rule + route))).toBe("");
    expect(addRouting(missingRouting(rule))).toBe("route add local 0.0.0.0/0 dev lo table 100\n");
    expect(removeRouting(missingRouting(""))).toBe("");
    expect(removeRouting(missingRouting(route))).toBe("route del local 0.0.0.0/0 dev lo table 100\n");
  });

  it("takes another's rule or route for neither", () => {
    const others = "32764:\tfrom all fwmark 0x222/0xfff lookup 100\ndefault via 10.0.0.1 dev eth0\n";
    expect(missingRouting(others)).toEqual({ rule: true, route: true });
  });
});

describe("carried connections", () => {
  it("are the open ones on the data plane's ports, of both families", () => {
    const line = (local: string, state: string): string =>
      `   0: ${local} 0200000A:8CA0 ${state} 00000000:00000000 00:00000000 00000000     0        0 1`;
    const text = [
      "  sl  local_address rem_address   st tx_queue rx_queue",
      line("00000000:3A99", "0A"), // 15001, listening
      line("0300000A:3A9E", "01"), // 15006, established
      line("0000000000000000FFFF00000300000A:3AA0", "08"), // 15008, close wait
      line("0300000A:3A99", "06"), // 15001, time wait
      line("0300000A:1F90", "01"), // 8080
    ].join("\n");
    expect(countCarried(text)).toBe(2);
  });
});
