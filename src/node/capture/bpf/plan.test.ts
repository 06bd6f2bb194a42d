import { describe, expect, it } from "vitest";
import { changeScript, difference, readRouting, type Routing } from "../policy-routing.js";
import type { CaptureSettings } from "../mode.js";
import { kernelLocal, routingPlan, territory } from "./plan.js";
import { captureSysctls } from "./sysctls.js";

const settings: CaptureSettings = {
  addresses: ["10.0.0.2", "fd00::2"],
  excludeInboundPorts: [22],
  excludeOutboundPorts: [],
  excludeOutboundCidrs: [],
  bypassInbound: false,
  udp: "pass",
};
const addresses = [
  { interface: "eth0", address: "10.0.0.2" },
  { interface: "eth0", address: "fd00::2" },
  { interface: "eth0", address: "fe80::1234" },
  { interface: "eth1", address: "10.7.0.2" },
];
const main = [
  { destination: "default", device: "eth0" },
  { destination: "10.7.0.0/16", device: "eth1" },
  { destination: "10.8.0.0/16", device: "eth1", source: "10.7.0.2" },
];
const fresh: Routing = {
  rules: [
    { priority: 0, table: "local" },
    { priority: 32766, table: "main" },
    { priority: 32767, table: "default" },
  ],
  routes: [],
  main,
};
const plan = (family: "4" | "6", changed: Partial<CaptureSettings> = {}, form = "redirecting" as const) =>
  routingPlan(family, addresses, main, { ...settings, ...changed }, form);
const script = (family: "4" | "6", present: Routing): string =>
  changeScript(difference(present, plan(family), territory));

describe("policy routing of mode bpf", () => {
  it("is added routes first, and the kernel's rule for local goes last of the rules", () => {
    expect(script("4", fresh)).toBe(`route replace local 10.0.0.2 dev lo table 101
route replace local 10.7.0.2 dev lo table 101
route replace local default dev lo table 100 src 10.0.0.2
route replace local 10.7.0.0/16 dev lo table 100 src 10.7.0.2
route replace local 10.8.0.0/16 dev lo table 100 src 10.7.0.2
rule add pref 50 to 10.0.0.2 iif lo lookup 101
rule add pref 50 to 10.7.0.2 iif lo lookup 101
rule add pref 60 lookup local
rule add pref 80 fwmark 0x53a/0xfff goto 32766
rule add pref 80 fwmark 0x539/0xfff goto 32766
rule add pref 101 ipproto tcp lookup 100
rule del pref 0 lookup local
`);
  });

  it("names no source and no link-local address for IPv6", () => {
    expect(script("6", fresh)).toContain("route replace local default dev lo table 100\n");
    expect(script("6", fresh)).not.toContain("fe80");
  });

  it("is undone without a moment in which local addresses are not found", () => {
    const { rules, routes } = plan("4");
    const present = { rules, routes, main };
    const lines = changeScript(difference(present, { rules: [kernelLocal], routes: [] }, territory)).split(
      "\n",
    );
    expect(lines[0]).toBe("rule add pref 0 lookup local protocol kernel");
    const own = rules.filter(({ priority }) => priority < 32_766);
    expect(lines.filter((line) => line.startsWith("rule del"))).toHaveLength(own.length);
    expect(lines.findIndex((line) => line.startsWith("route del"))).toBeGreaterThan(
      lines.findLastIndex((line) => line.startsWith("rule del")),
    );
  });

  it("brings back the kernel's own rules, which a flush of all takes along", () => {
    expect(script("4", { ...fresh, rules: [] })).toMatch(
      /rule add pref 32766 lookup main protocol kernel\nrule add pref 32767 lookup default protocol kernel\n$/,
    );
  });

  it("needs no change once it is there, and touches nobody else's rules and routes", () => {
    const { rules, routes } = plan("4");
    const others: Routing = {
      rules: [...rules, { priority: 70, table: "7" }, { priority: 50, tcp: true, table: "8" }],
      routes: [...routes, { destination: "default", table: "7" }],
      main,
    };
    expect(script("4", others)).toBe("");
  });

  it("lets what is excluded go on at the kernel's rule for main, instead of falling through to the capture", () => {
    const { rules } = plan("4", {
      excludeOutboundPorts: [25],
      excludeOutboundCidrs: ["10.9.0.0/16", "10.9.0.1/32", "fd00:9::/32"],
    });
    expect(rules.filter(({ priority }) => priority === 80)).toEqual([
      { priority: 80, to: "10.9.0.0/16", goto: 32766 },
      { priority: 80, to: "10.9.0.1", goto: 32766 },
      { priority: 80, tcp: true, port: 25, goto: 32766 },
      { priority: 80, mark: "0x53a/0xfff", goto: 32766 },
      { priority: 80, mark: "0x539/0xfff", goto: 32766 },
    ]);
  });

  it("captures only what the data plane carries already while the pod leaves", () => {
    const { rules } = routingPlan("4", addresses, main, settings, "draining");
    expect(rules.filter(({ priority }) => priority > 60 && priority < 32_766)).toEqual([
      { priority: 101, mark: "0x53b/0xfff", tcp: true, table: "100" },
    ]);
  });

  it("is none of a family that the pod has no address of", () => {
    const none = routingPlan("6", addresses.slice(0, 1), [], settings, "redirecting");
    expect(none).toEqual({
      rules: [kernelLocal, { priority: 32766, table: "main", kernel: true }],
      routes: [],
    });
  });

  it("is read from what ip prints", () => {
    const text = `[{"priority":50,"src":"all","dst":"10.0.0.2","iif":"lo","table":"101"},{"priority":80,"src":"all","dst":"10.9.0.0","dstlen":16,"goto":32766},{"priority":80,"src":"all","fwmark":"0x53a","fwmask":"0xfff","goto":32766},{"priority":101,"src":"all","ipproto":"tcp","table":"100"}]
[{"type":"local","dst":"default","dev":"lo","table":"100","scope":"host","prefsrc":"10.0.0.2","flags":[]},{"dst":"10.7.0.0/16","dev":"eth1","flags":[]},{"type":"local","dst":"10.0.0.2","dev":"eth0","table":"local","flags":[]}]`;
    const { rules, routes, main: read } = readRouting(text);
    expect(difference({ rules, routes }, { rules: [], routes: [] }, territory).removeRules).toHaveLength(4);
    expect(rules[1]).toMatchObject({ priority: 80, to: "10.9.0.0/16", goto: 32766 });
    expect(routes).toEqual([{ destination: "default", table: "100", source: "10.0.0.2" }]);
    expect(read).toEqual([{ destination: "10.7.0.0/16", device: "eth1", source: undefined }]);
  });
});

describe("sysctls of mode bpf", () => {
  it("are of each interface, and of the namespace", () => {
    expect(captureSysctls(["eth0"])).toEqual({
      "net/ipv4/conf/all/rp_filter": "0",
      "net/ipv4/conf/eth0/accept_local": "1",
      "net/ipv4/conf/eth0/rp_filter": "0",
      "net/ipv4/fwmark_reflect": "1",
      "net/ipv4/tcp_fwmark_accept": "1",
      "net/ipv6/fwmark_reflect": "1",
    });
  });
});
