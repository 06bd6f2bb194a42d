import { describe, expect, it } from "vitest";
import { difference, type Difference, type Routing } from "../policy-routing.js";
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
const change = (family: "4" | "6", present: Routing): Difference =>
  difference(present, plan(family), territory);

describe("policy routing of mode bpf", () => {
  it("takes the kernel's rule for local away, and sends all TCP through lo with the sources that main would choose", () => {
    const local = { table: "101" };
    expect(change("4", fresh)).toEqual({
      addRoutes: [
        { destination: "10.0.0.2", ...local },
        { destination: "10.7.0.2", ...local },
        { destination: "default", table: "100", source: "10.0.0.2" },
        { destination: "10.7.0.0/16", table: "100", source: "10.7.0.2" },
        { destination: "10.8.0.0/16", table: "100", source: "10.7.0.2" },
      ],
      addRules: [
        { priority: 50, to: "10.0.0.2", local: true, ...local },
        { priority: 50, to: "10.7.0.2", local: true, ...local },
        { priority: 60, table: "local" },
        { priority: 80, mark: "0x53a/0xfff", goto: 32766 },
        { priority: 80, mark: "0x539/0xfff", goto: 32766 },
        { priority: 101, tcp: true, table: "100" },
      ],
      removeRules: [{ priority: 0, table: "local" }],
      removeRoutes: [],
    });
  });

  it("names no source and no link-local address for IPv6", () => {
    expect(change("6", fresh).addRoutes).toContainEqual({ destination: "default", table: "100" });
    expect(JSON.stringify(change("6", fresh))).not.toContain("fe80");
  });

  it("is undone with the kernel's rule for local put back", () => {
    const { rules, routes } = plan("4");
    const undone = difference({ rules, routes }, { rules: [kernelLocal], routes: [] }, territory);
    expect(undone.addRules).toEqual([kernelLocal]);
    expect(undone.removeRules).toEqual(rules.filter(({ priority }) => priority < 32_766));
    expect(undone.removeRoutes).toEqual(routes);
  });

  it("replaces a route that gets another source, and does not remove it", () => {
    const { rules, routes } = plan("4");
    const old = routes.map((route) => ({ ...route, ...(route.source && { source: "10.0.0.9" }) }));
    const { addRoutes, removeRoutes } = change("4", { rules, routes: old, main });
    expect(addRoutes).toEqual(routes.filter(({ source }) => source !== undefined));
    expect(removeRoutes).toEqual([]);
  });

  it("brings back the kernel's own rules, which a flush of all takes along", () => {
    expect(change("4", { ...fresh, rules: [] }).addRules.slice(-2)).toEqual([
      { priority: 32766, table: "main", kernel: true },
      { priority: 32767, table: "default", kernel: true },
    ]);
  });

  it("needs no change once it is there, and touches nobody else's rules and routes", () => {
    const { rules, routes } = plan("4");
    const others: Routing = {
      rules: [...rules, { priority: 70, table: "7" }, { priority: 50, tcp: true, table: "8" }],
      routes: [...routes, { destination: "default", table: "7" }],
      main,
    };
    expect(change("4", others)).toEqual({ addRoutes: [], addRules: [], removeRules: [], removeRoutes: [] });
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
