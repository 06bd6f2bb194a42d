import { describe, expect, test } from "vitest";
import { chain, type ConfigFile, type PluginConfig } from "./chain.js";

const config: PluginConfig = {
  socket: "/run/cni.sock",
  list: "/var/list.json",
  timeoutMs: 10_000,
  briefTimeoutMs: 250,
  whenUnknown: "retry",
};

const network = (name: string, fields: Record<string, unknown> = {}): ConfigFile => ({
  name,
  text: JSON.stringify({ cniVersion: "1.0.0", name: "net", plugins: [{ type: "bridge" }], ...fields }),
});

describe("the chain", () => {
  test("is the first configuration with ours at its end, and all that others put there", () => {
    const fields = {
      disableCheck: true,
      cniVersions: ["1.0.0", "1.1.0"],
      plugins: [{ type: "ptp", mtu: 9000 }],
    };
    const made = chain([network("20-b.conflist"), network("10-a.conflist", fields)], config);
    expect(made).toMatchObject({ type: "chained", name: "00-meltemi.conflist", from: "10-a.conflist" });
    expect(JSON.parse(made.type === "chained" ? made.text : "")).toEqual({
      cniVersion: "1.0.0",
      name: "net",
      ...fields,
      plugins: [
        { type: "ptp", mtu: 9000 },
        { type: "meltemi-cni", from: "10-a.conflist", ...config },
      ],
    });
  });

  test.each(["10-a.conf", "10-a.json"])("of a single plugin in %s is a list of two", (name) => {
    const text = JSON.stringify({ cniVersion: "0.4.0", name: "net", type: "bridge", bridge: "br0" });
    const made = chain([{ name, text }], config);
    expect(JSON.parse(made.type === "chained" ? made.text : "")).toEqual({
      cniVersion: "0.4.0",
      name: "net",
      plugins: [
        { type: "bridge", bridge: "br0" },
        { type: "meltemi-cni", from: name, ...config },
      ],
    });
  });

  test.each([
    ["10-a.conflist", "00-meltemi.conflist"],
    ["00-a.conflist", "!00-meltemi.conflist"],
    ["000.conflist", "00-meltemi.conflist"],
    ["A.conflist", "00-meltemi.conflist"],
  ])("comes before %s as %s", (theirs, ours) => {
    expect(chain([network(theirs)], config)).toMatchObject({ type: "chained", name: ours });
  });

  test("cannot come before everything", () => {
    expect(chain([network("!!.conflist")], config)).toEqual({
      type: "waiting",
      problems: ["!!.conflist: no file can come before it; rename it"],
    });
  });

  test("is left to who names our plugin", () => {
    const theirs = network("10-a.conflist", { plugins: [{ type: "bridge" }, { type: "meltemi-cni" }] });
    expect(chain([theirs], config)).toEqual({ type: "theirs", from: "10-a.conflist" });
  });

  test("passes over what cannot be read, and says why", () => {
    const broken = [
      { name: "01.conflist", text: "{" },
      { name: "02.conflist", text: '{"cniVersion":"1.0.0","name":"n","plugins":[]}' },
      { name: "03.conf", text: '{"cniVersion":"1.0.0","name":"n"}' },
      network("04.conflist", { cniVersion: "0.2.0" }),
    ];
    expect(chain([...broken, network("05.conflist")], config)).toMatchObject({ from: "05.conflist" });
    const none = chain(broken, config);
    expect(none.type === "waiting" && none.problems.map((problem) => problem.slice(0, 12))).toEqual([
      "01.conflist:",
      "02.conflist:",
      "03.conf: typ",
      "04.conflist:",
    ]);
    expect(chain([], config)).toEqual({ type: "waiting", problems: [] });
  });
});
