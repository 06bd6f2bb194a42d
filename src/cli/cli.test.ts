import { appendFileSync, mkdirSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { eventually } from "../../test/helpers/eventually.js";
import { scratchDirectory } from "../../test/helpers/scratch.js";
import { systemClock } from "../platform/clock.js";
import { printLogs } from "./logs.js";
import { addHits } from "./policy-hits.js";
import { defaultRunDir, defaultStateDir, findTarget } from "./run-directory.js";
import { age, byteCount, formatTable, listCell } from "./table.js";
import { formatView, parseOutputFormat, type View } from "./view.js";

describe("tables", () => {
  test("columns are as wide as their longest cell, and nothing trails", () => {
    expect(
      formatTable(
        ["name", "ready"],
        [
          ["a-long-name", "yes"],
          ["b", "no"],
        ],
      ),
    ).toBe("NAME          READY\na-long-name   yes\nb             no\n");
  });

  test.each([
    [0, "0s"],
    [119_000, "119s"],
    [120_000, "2m"],
    [7_200_000, "2h"],
    [172_800_000, "2d"],
    [-5, "0s"],
  ])("%d ms are %s", (ms, text) => expect(age(ms)).toBe(text));

  test.each([
    [0, "0 B"],
    [1023, "1023 B"],
    [1536, "1.5 KiB"],
    [5 * 1024 ** 3, "5.0 GiB"],
  ])("%d bytes are %s", (bytes, text) => expect(byteCount(bytes)).toBe(text));

  test("a long list is cut and says how much is left", () => {
    expect(listCell(["a", "b", "c", "d", "e"])).toBe("a,b,c,+2");
    expect(listCell([])).toBe("-");
  });
});

describe("views", () => {
  const view: View = {
    data: [{ name: "a", secret: 1 }],
    sections: [
      { columns: [{ heading: "name" }, { heading: "uid", wide: true }], rows: [["a", "u1"]], empty: "none" },
      { title: "Second", columns: [{ heading: "x" }], rows: [], empty: "Nothing here." },
    ],
    notes: [],
  };

  test("a table leaves wide columns out, and says when there is nothing", async () => {
    expect(await formatView(view, "table")).toBe("NAME\na\n\nSecond\nNothing here.\n");
  });
  test("wide shows them", async () =>
    expect(await formatView(view, "wide")).toContain("NAME   UID\na      u1\n"));
  test("json and yaml are the data", async () => {
    expect(JSON.parse(await formatView(view, "json"))).toEqual(view.data);
    expect(await formatView(view, "yaml")).toBe("- name: a\n  secret: 1\n");
  });
  test("another format is refused with those there are", () => {
    expect(() => parseOutputFormat("xml")).toThrow('"xml" is not an output format');
  });
});

describe("where an instance is found", () => {
  test("the flag's default is the environment's, root's, or the user's own", () => {
    expect(defaultRunDir({ MELTEMI_RUN_DIR: "/x" }, 1000)).toBe("/x");
    expect(defaultRunDir({}, 0)).toBe("/run/meltemi");
    expect(defaultRunDir({ XDG_RUNTIME_DIR: "/run/user/7" }, 7)).toBe("/run/user/7/meltemi");
    expect(defaultStateDir({}, 0)).toBe("/var/lib/meltemi");
    expect(defaultStateDir({ HOME: "/home/a" }, 7)).toBe("/home/a/.local/state/meltemi");
  });

  test("nothing there is an error that says how to start", () => {
    const directory = scratchDirectory();
    expect(() => findTarget(directory)).toThrow(`no Meltemi runs in ${directory}`);
  });

  test("a standalone's, a control plane's own and a node's own directory", () => {
    const directory = scratchDirectory();
    const make = (...path: string[]): void => {
      mkdirSync(join(directory, ...path.slice(0, -1)), { recursive: true });
      writeFileSync(join(directory, ...path), "");
    };
    make("control-plane", "control-admin.sock");
    make("nodes", "n2", "node-admin.sock");
    make("nodes", "n1", "node-admin.sock");
    make("nodes", "starting", "zds.sock");
    const target = findTarget(directory);
    expect(target.controlPlane?.admin).toBe(join(directory, "control-plane/control-admin.sock"));
    expect(target.nodes.map(({ name }) => name)).toEqual(["n1", "n2"]);
    expect(findTarget(join(directory, "control-plane")).controlPlane?.control).toBe(
      join(directory, "control-plane/control-control.sock"),
    );
    expect(findTarget(join(directory, "nodes/n1")).nodes).toHaveLength(1);
  });
});

test("policy hits are summed over actions, nodes and odd labels", () => {
  const sums = new Map<string, number>();
  const text = [
    "# HELP meltemi_policy_matches_total x",
    'meltemi_policy_matches_total{policy="shop/a",action="audit"} 3',
    'meltemi_policy_matches_total{action="dry-run",policy="shop/a"} 4',
    'meltemi_policy_matches_total{policy="shop/b\\"x",action="audit"} 1',
    'other_total{policy="shop/a"} 9',
  ].join("\n");
  addHits(text, sums);
  addHits('meltemi_policy_matches_total{policy="shop/a",action="audit"} 1e1', sums);
  expect([...sums]).toEqual([
    ["shop/a", 17],
    ['shop/b\\"x', 1],
  ]);
});

test("logs: the last lines of each, then what is written, over an emptied file and a new one", async () => {
  const state = scratchDirectory();
  const write = (path: string, text: string): void => {
    mkdirSync(join(state, path, ".."), { recursive: true });
    appendFileSync(join(state, path), text);
  };
  write("logs/control-plane.log", "one\ntwo\nthree\nunfinished");
  write("nodes/n1/logs/proxy.log", "p1\n");
  write("logs/node-n2.log", "other node\n");
  const printed: string[] = [];
  const stop = new AbortController();
  const options = { node: undefined, follow: true, tailLines: 2 };
  const printing = printLogs(
    state,
    options,
    (name, line) => void printed.push(`${name}: ${line}`),
    systemClock,
    stop.signal,
  );
  const has = (line: string): Promise<boolean> => eventually(line, () => printed.includes(line));
  await has("n1/proxy: p1");
  expect(printed).toEqual([
    "control-plane: two",
    "control-plane: three",
    "node-n2: other node",
    "n1/proxy: p1",
  ]);
  write("logs/control-plane.log", " line\nfour\n");
  await has("control-plane: unfinished line");
  await has("control-plane: four");
  truncateSync(join(state, "logs/control-plane.log"), 0);
  write("logs/control-plane.log", "5\n");
  await has("control-plane: 5");
  write("nodes/n3/logs/proxy.log", "new node\n");
  await has("n3/proxy: new node");
  stop.abort();
  await printing;

  const ofNode: string[] = [];
  await printLogs(
    state,
    { node: "n2", follow: false, tailLines: 10 },
    (name, line) => void ofNode.push(`${name}: ${line}`),
    systemClock,
    new AbortController().signal,
  );
  expect(ofNode).toEqual(["node-n2: other node"]);
});
