import { readFileSync, readdirSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

import { describe, expect, it } from "vitest";

const root = resolve(dirname(fileURLToPath(import.meta.url)), "../../..");
const read = (path: string): string => readFileSync(join(root, path), "utf8");
const page = read("docs/node-interfaces.md");

/** The part of the page below one heading. */
function section(heading: string): string {
  const [, after = ""] = page.split(`## ${heading}\n`);
  return after.split(/^## /mu)[0] ?? "";
}

const sorted = (names: Iterable<string>): string[] => [...new Set(names)].sort();
const flagsIn = (text: string): string[] =>
  sorted([...text.matchAll(/--([a-z][a-z0-9-]*)/gu)].map(([, name = ""]) => name));

/** Flags that TypeScript options declare. Their descriptions may name none: they are not the first string. */
function flagsOf(...paths: string[]): string[] {
  return flagsIn(
    paths
      .flatMap((path) => [...read(path).matchAll(/"(--[a-z][a-z-]*)/gu)].map(([, flag]) => flag))
      .join(" "),
  );
}

function sourcesUnder(directory: string): string[] {
  return readdirSync(join(root, directory), { withFileTypes: true }).flatMap((entry) => {
    const path = `${directory}/${entry.name}`;
    if (entry.isDirectory()) return sourcesUnder(path);
    return /(?<!\.test)\.ts$/u.test(entry.name) ? [path] : [];
  });
}

describe("the flags that the interfaces' page lists", () => {
  it("are the data plane's", () => {
    const fields =
      /struct Flags \{([\s\S]*?)\n\}/u.exec(read("native/crates/proxy/src/config.rs"))?.[1] ?? "";
    const flags = [...fields.matchAll(/^ {4}(?:pub(?:\([a-z]+\))? )?([a-z_]+):/gmu)].map(([, name = ""]) =>
      name.replaceAll("_", "-"),
    );
    expect(flags.length).toBeGreaterThan(15);
    expect(flagsIn(section("Data plane's command line"))).toEqual(sorted(flags));
  });

  it("are the agent's", () => {
    expect(flagsIn(section("Agent's command line"))).toEqual(flagsOf("src/main/node.ts"));
  });

  it("are the control plane's and standalone's", () => {
    expect(flagsIn(section("Control plane and standalone"))).toEqual(
      flagsOf("src/main/control-plane/options.ts", "src/main/standalone/options.ts"),
    );
  });
});

describe("the metrics that the interfaces' page lists", () => {
  const listed = sorted([...page.matchAll(/\bmeltemi_[a-z_]+/gu)].map(([name]) => name));
  const namesIn = (text: string): string[] =>
    [...text.matchAll(/"(meltemi_[a-z_]+)/gu)].map(([, name = ""]) => name);

  it("are those of agent and control plane, and of the data plane", () => {
    const decided = sourcesUnder("src").flatMap((path) => namesIn(read(path)));
    // The data plane's library adds the suffix of a counter by itself.
    const moved = namesIn(read("native/crates/telemetry/src/metrics.rs")).map(
      (name) => listed.find((each) => each === name || each === `${name}_total`) ?? name,
    );
    expect(moved.length).toBeGreaterThan(5);
    expect(listed).toEqual(sorted([...decided, ...moved]));
  });
});

describe("the reasons that the interfaces' page lists", () => {
  it("are the data plane's", () => {
    const reasons = [
      ...read("native/crates/telemetry/src/reason.rs").matchAll(/^\s+[A-Z]\w+ = "([a-z_]+)", \w+;/gmu),
    ].map(([, text = ""]) => text);
    const line = /^`reason`: (.*)$/mu.exec(section("Access record"))?.[1] ?? "";
    const listed = [...line.matchAll(/`([a-z_]+)`/gu)].map(([, text = ""]) => text);
    expect(reasons.length).toBeGreaterThan(15);
    expect(sorted(listed.filter((name) => name !== "peer_policy"))).toEqual(sorted(reasons));
  });
});

describe("the fields that the interfaces' page lists", () => {
  it("are the access record's", () => {
    const fields =
      /struct Line<'a> \{([\s\S]*?)\n\}/u.exec(read("native/crates/telemetry/src/access_record.rs"))?.[1] ??
      "";
    const written = [...fields.matchAll(/^ {4}([a-z_]+):/gmu)].map(([, name = ""]) => name);
    expect(written.length).toBeGreaterThan(15);
    for (const name of written) expect(section("Access record")).toContain(`\`${name}\``);
  });
});

describe("the rooms that the architecture's page lists", () => {
  it("import what lint lets them import", () => {
    const table = new Map(
      [...read("docs/ARCHITECTURE.md").matchAll(/^\| `src\/([^`]+)` \|[^|]*\| ([^|]*) \|$/gmu)].map(
        ([, room = "", imports = ""]) => [room, imports === "–" ? [] : imports.split(", ")],
      ),
    );
    const rooms = /const rooms = \{([\s\S]*?)\n\};/u.exec(read("eslint.config.js"))?.[1] ?? "";
    const enforced = [...rooms.matchAll(/^ {2}"?([\w/]+)"?: \[(.*)\],$/gmu)];
    expect(enforced.length).toBeGreaterThan(5);
    for (const [, room = "", list = ""] of enforced) {
      const allowed = [...list.matchAll(/"([^"]+)"/gu)].map(([, name = ""]) => name);
      expect([room, table.get(room)]).toEqual([room, allowed]);
    }
  });
});

describe("the open connections that the interfaces' page shows", () => {
  it("have the data plane's fields", () => {
    const fields =
      /struct ConnectionSnapshot \{([\s\S]*?)\n\}/u.exec(
        read("native/crates/telemetry/src/connection.rs"),
      )?.[1] ?? "";
    const shown = [...fields.matchAll(/^ {4}pub ([a-z_]+):/gmu)].map(([, name = ""]) => name);
    const row = /^\| `GET \/connections` \| `\[\{([^}]*)\}\]` \|$/mu.exec(page)?.[1] ?? "";
    const listed = row.split(",").map((entry) => (entry.trim().split(":")[0] ?? "").trim());
    expect(listed).toEqual(shown);
  });
});
