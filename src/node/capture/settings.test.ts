import { describe, expect, it } from "vitest";
import { readOptOuts } from "./settings.js";

const texts = (values: Record<string, string> = {}): ReadonlyMap<string, string> =>
  new Map(Object.entries(values));
const pod = (annotations: Record<string, string>) => ({ labels: texts(), annotations: texts(annotations) });
const namespace = (labels: Record<string, string>, annotations: Record<string, string> = {}) => ({
  labels: texts(labels),
  annotations: texts(annotations),
});
const read = (annotations: Record<string, string>) => readOptOuts(pod(annotations), undefined, undefined);

describe("what a pod's owner leaves out of capture", () => {
  it("is nothing by default", () => {
    expect(read({})).toEqual({
      settings: {
        excludeInboundPorts: [],
        excludeOutboundPorts: [],
        excludeOutboundCidrs: [],
        bypassInbound: false,
        udp: "pass",
      },
      problems: [],
    });
  });

  it("is read from the names that users of Istio write, and ours come first", () => {
    const { settings } = read({
      "traffic.sidecar.istio.io/excludeInboundPorts": "9100,22",
      "traffic.sidecar.istio.io/excludeOutboundPorts": "25",
      "traffic.sidecar.istio.io/excludeOutboundIPRanges": "10.1.2.3/16, fd00:0::/32",
      "ambient.istio.io/bypass-inbound-capture": "true",
    });
    expect(settings).toMatchObject({
      excludeInboundPorts: [22, 9100],
      excludeOutboundPorts: [25],
      excludeOutboundCidrs: ["10.1.0.0/16", "fd00::/32"],
      bypassInbound: true,
    });
    const both = read({
      "traffic.sidecar.istio.io/excludeOutboundPorts": "25",
      "meltemi.io/exclude-outbound-ports": "26",
      "meltemi.io/bypass-inbound-capture": "false",
      "ambient.istio.io/bypass-inbound-capture": "true",
    });
    expect(both.settings).toMatchObject({ excludeOutboundPorts: [26], bypassInbound: false });
  });

  it("names what cannot be understood, and captures it", () => {
    const { settings, problems } = read({
      "meltemi.io/exclude-inbound-ports": "0, 65536, http, 15008, 80, 80",
      "meltemi.io/exclude-outbound-cidrs": "0.0.0.0/0, ::/0, 10.0.0.0/33, example.org, 10.0.0.1",
      "meltemi.io/bypass-inbound-capture": "yes",
    });
    expect(settings).toMatchObject({
      excludeInboundPorts: [80],
      excludeOutboundCidrs: ["10.0.0.1/32"],
      bypassInbound: false,
    });
    expect(problems).toHaveLength(9);
    expect(problems).toContain('meltemi.io/exclude-inbound-ports: "15008" is left out');
    expect(problems).toContain('meltemi.io/bypass-inbound-capture is "yes", expected true or false');
  });

  it("has bounds", () => {
    const ports = Array.from({ length: 70 }, (_, index) => index + 1).join();
    const { settings, problems } = read({ "meltemi.io/exclude-outbound-ports": ports });
    expect(settings.excludeOutboundPorts).toHaveLength(64);
    expect(problems).toHaveLength(6);
  });
});

describe("UDP", () => {
  it("is as the namespace says, else as the mesh says, in a label or an annotation", () => {
    const refuse = namespace({ "meltemi.io/udp": "refuse" });
    const pass = namespace({}, { "meltemi.io/udp": "pass" });
    const udp = (...where: Parameters<typeof readOptOuts> extends [unknown, ...infer Rest] ? Rest : never) =>
      readOptOuts(pod({ "meltemi.io/udp": "refuse" }), ...where).settings.udp;
    expect(udp(undefined, undefined)).toBe("pass");
    expect(udp(refuse, undefined)).toBe("refuse");
    expect(udp(undefined, refuse)).toBe("refuse");
    expect(udp(pass, refuse)).toBe("pass");
    const { settings, problems } = readOptOuts(pod({}), namespace({ "meltemi.io/udp": "drop" }), refuse);
    expect(settings.udp).toBe("refuse");
    expect(problems).toEqual(['meltemi.io/udp of the namespace is "drop", expected pass or refuse']);
  });
});
