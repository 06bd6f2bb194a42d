/**
 * Each file in `cases/` holds input objects, then (below the marker) what they compile to and their
 * status. `UPDATE_GOLDEN=1` writes the lower half anew; the difference is then read before it is committed.
 */
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { parse, parseAllDocuments, stringify } from "yaml";
import type { Compiled } from "../../../src/compile/unit.js";
import { Compiler } from "../../../src/compile/compiler.js";
import { defaultCompileConfig } from "../../../src/compile/config.js";
import { meshProblems, statusOf } from "../../../src/compile/status.js";
import type { MeshObject } from "../../../src/domain/objects.js";
import { formatProblem } from "../../../src/domain/problem.js";
import { decodeAll } from "../../../src/sources/decode/decode.js";
import { apply, remove } from "../../helpers/mesh-objects.js";

const marker = "# ======== expected ========\n";
const directory = join(import.meta.dirname, "cases");
const files = readdirSync(directory).filter((name) => name.endsWith(".yaml"));

function readCase(file: string): {
  readonly input: string;
  readonly expected: string;
  readonly objects: MeshObject[];
} {
  const text = readFileSync(join(directory, file), "utf8");
  const [input = "", expected = ""] = text.split(marker);
  const objects = parseAllDocuments(input).flatMap((document) => {
    if (document.errors.length > 0) throw new Error(`${file}: ${document.errors.map(String).join("; ")}`);
    return decodeAll(document.toJS(), { origin: "files" }).map((decoded) => {
      if (decoded.outcome === "understood") return decoded.object;
      throw new Error(`${file}: ${decoded.problems.map(formatProblem).join("; ")}`);
    });
  });
  return { input, expected, objects };
}

/** Plain data without what is empty, so that a case shows what it is about. */
function plain(value: unknown): unknown {
  if (value instanceof Map) return plain(Object.fromEntries(value));
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value)
    .map(([key, one]) => [key, plain(one)] as const)
    .filter(([, one]) => one !== undefined && one !== "" && one !== false && !isEmpty(one));
  return Object.fromEntries(entries);
}

function isEmpty(value: unknown): boolean {
  return typeof value === "object" && value !== null && Object.keys(value).length === 0;
}

/** An entry of `rules` may be empty and mean everything: keep it visible. */
function shown(compiled: Compiled): unknown {
  if (compiled.type !== "authorization") return plain(compiled);
  const rules = compiled.rules.map((clauses) =>
    clauses.length === 0 ? "matches everything" : plain(clauses),
  );
  const shownRules = rules.length === 0 ? "matches nothing" : rules;
  return { ...(plain(compiled) as object), rules: shownRules };
}

function nameOf(compiled: Compiled): string {
  switch (compiled.type) {
    case "workload":
      return compiled.uid;
    case "waypoint_config":
      return `${compiled.kind} ${compiled.name}`;
    default:
      return compiled.key;
  }
}

function outcome(compiler: Compiler, objects: readonly MeshObject[]): object {
  const all = [...compiler.all()].sort((a, b) => (nameOf(a) < nameOf(b) ? -1 : 1));
  const of = (type: Compiled["type"]): unknown[] => all.filter((one) => one.type === type).map(shown);
  const status = objects
    .map((object) => statusOf(compiler, object))
    .filter(({ conditions }) => conditions.length > 0)
    .map(({ object, conditions }) => [
      `${object.kind}/${object.namespace}/${object.name}`,
      conditions.map(
        ({ type, status, reason, message }) => `${type}=${String(status)} ${reason}: ${message}`,
      ),
    ]);
  return {
    workloads: of("workload"),
    services: of("service"),
    authorizations: of("authorization"),
    ...(all.some(({ type }) => type === "waypoint_config") && { waypoint_configs: of("waypoint_config") }),
    status: Object.fromEntries(status) as unknown,
    problems: meshProblems(compiler).map(formatProblem),
  };
}

function compiled(objects: readonly MeshObject[]): Compiler {
  const compiler = new Compiler(defaultCompileConfig);
  compiler.apply(apply(...objects));
  return compiler;
}

describe.each(files)("%s", (file) => {
  const { input, expected, objects } = readCase(file);

  test("compiles to what is written below it", () => {
    const seen = stringify(outcome(compiled(objects), objects), {
      lineWidth: 0,
      aliasDuplicateObjects: false,
    });
    if (process.env["UPDATE_GOLDEN"] === "1")
      writeFileSync(join(directory, file), `${input}${marker}${seen}`);
    else expect(parse(seen)).toEqual(parse(expected));
  });

  test("any order of single changes, with detours, comes to the same", () => {
    const whole = outcome(compiled(objects), objects);
    let seed = 7;
    const random = (below: number): number => (seed = (seed * 48_271) % 2_147_483_647) % below;
    for (let round = 0; round < 12; round++) {
      const compiler = new Compiler(defaultCompileConfig);
      const told = new Map<string, Compiled>();
      const tell = (events: Parameters<Compiler["apply"]>[0]): void => {
        const change = compiler.apply(events);
        for (const one of [...change.addresses, ...change.authorizations, ...change.configs])
          told.set(`${one.type === "authorization" ? "p" : "a"}${nameOf(one)}`, one);
        for (const name of change.removedAddresses) expect(told.delete(`a${name}`)).toBe(true);
        for (const name of change.removedAuthorizations) expect(told.delete(`p${name}`)).toBe(true);
        for (const { kind, name } of change.removedConfigs)
          expect(told.delete(`a${kind} ${name}`)).toBe(true);
      };
      const order = [...objects];
      for (let index = order.length - 1; index > 0; index--) {
        const other = random(index + 1);
        [order[index], order[other]] = [order[other]!, order[index]!];
      }
      for (const object of order) {
        tell(apply(object));
        const detour = order[random(order.length)]!;
        if (compiler.mesh.get(detour.kind, detour.meta.namespace, detour.meta.name)) {
          tell([remove(detour)]);
          tell(apply(detour));
        }
      }
      expect(outcome(compiler, objects)).toEqual(whole);
      // What the changes added up to is what is in force: a consumer that applies them is not misled.
      expect(new Set(told.values())).toEqual(new Set(compiler.all()));
      for (const object of order) tell([remove(object)]);
      expect([...compiler.all()]).toEqual([]);
      expect(told.size).toBe(0);
    }
  });
});
