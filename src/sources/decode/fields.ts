import { didYouMean } from "../../domain/nearest.js";
import type { Report } from "./report.js";

const plainKey = /^[A-Za-z_][A-Za-z0-9_-]*$/;

/** `spec.ports` or `metadata.labels["istio.io/rev"]`. */
export function childPath(path: string, key: string): string {
  if (!plainKey.test(key)) return `${path}[${JSON.stringify(key)}]`;
  return path === "" ? key : `${path}.${key}`;
}

export type Mapping = Readonly<Record<string, unknown>>;

export function isMapping(value: unknown): value is Mapping {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function kindOf(value: unknown): string {
  if (Array.isArray(value)) return "a list";
  if (isMapping(value)) return "a mapping";
  return `a ${typeof value}`;
}

interface IntegerRange {
  readonly min: number;
  readonly max: number;
}

export const portRange: IntegerRange = { min: 1, max: 65535 };

/** Most objects have no annotations: one empty map serves them all. */
const noStrings: ReadonlyMap<string, string> = new Map();

/**
 * Reads the fields of one mapping, typed. What is wrong is reported with its path and read as absent,
 * so that reading goes on and finds the rest. As in Kubernetes, null is the same as absent.
 */
export class Fields {
  /** Every field that was asked for: what the mapping may contain. */
  readonly #known = new Set<string>();

  constructor(
    readonly report: Report,
    readonly path: string,
    readonly values: Mapping,
  ) {}

  /** The path of a field, for a problem about it. */
  at(key: string): string {
    return childPath(this.path, key);
  }

  /** Whether the field is there and not null. */
  has(key: string): boolean {
    return this.raw(key) !== undefined;
  }

  raw(key: string): unknown {
    this.#known.add(key);
    const value = Object.hasOwn(this.values, key) ? this.values[key] : undefined;
    return value === null ? undefined : value;
  }

  string(key: string): string | undefined {
    return this.#typed(key, this.raw(key), asString);
  }

  /** A string that must be there and not be empty. */
  requiredString(key: string, hint?: string): string | undefined {
    const raw = this.raw(key);
    if (raw === undefined || raw === "") {
      this.report.error(this.at(key), { message: "is missing", hint });
      return undefined;
    }
    return this.#typed(key, raw, asString);
  }

  boolean(key: string): boolean | undefined {
    return this.#typed<boolean>(key, this.raw(key), (value) =>
      typeof value === "boolean" ? value : { message: "must be true or false" },
    );
  }

  integer(key: string, range: IntegerRange): number | undefined {
    return this.#typed(key, this.raw(key), (value) => asInteger(value, range));
  }

  /** One of a closed set of words; the fallback where absent. */
  choice<T extends string>(key: string, words: readonly T[], fallback: T): T {
    const value = this.string(key);
    if (value === undefined) return fallback;
    const word = words.find((candidate) => candidate === value);
    if (word === undefined) {
      const hint = didYouMean(value, words) ?? `one of: ${words.join(", ")}`;
      this.report.error(this.at(key), { value, message: "is not a value of this field", hint });
      return fallback;
    }
    return word;
  }

  /** The mapping below a field. */
  child(key: string): Fields | undefined {
    const value = this.raw(key);
    if (value === undefined) return undefined;
    if (isMapping(value)) return new Fields(this.report, this.at(key), value);
    this.report.error(this.at(key), { value, message: `must be a mapping, not ${kindOf(value)}` });
    return undefined;
  }

  /** The mapping below a field; an empty one where it is absent, so that its required fields are named. */
  childOrEmpty(key: string): Fields {
    return this.child(key) ?? new Fields(this.report, this.at(key), {});
  }

  /** The items of a list, each with its path; empty where absent. */
  items(key: string): readonly { readonly value: unknown; readonly path: string }[] {
    const value = this.raw(key);
    if (value === undefined) return [];
    const path = this.at(key);
    if (!Array.isArray(value)) {
      const hint = isMapping(value) ? 'begin each item with "- "' : undefined;
      this.report.error(path, { value, message: `must be a list, not ${kindOf(value)}`, hint });
      return [];
    }
    return value.map((item: unknown, index) => ({ value: item, path: `${path}[${index}]` }));
  }

  /** The items of a list of mappings. */
  children(key: string): Fields[] {
    const children: Fields[] = [];
    for (const { value, path } of this.items(key)) {
      if (isMapping(value)) children.push(new Fields(this.report, path, value));
      else
        this.report.error(path, {
          value: value ?? "null",
          message: `must be a mapping, not ${value === null ? "null" : kindOf(value)}`,
        });
    }
    return children;
  }

  /** The items of a list of strings, each with its path. */
  strings(key: string): { readonly value: string; readonly path: string }[] {
    const strings: { value: string; path: string }[] = [];
    for (const { value, path } of this.items(key)) {
      const read = asString(value);
      if (typeof read === "string") strings.push({ value: read, path });
      else this.report.error(path, { value: value ?? "null", ...read });
    }
    return strings;
  }

  /** A mapping of strings to strings, such as labels. */
  stringMap(key: string): ReadonlyMap<string, string> {
    const value = this.raw(key);
    if (value === undefined) return noStrings;
    if (!isMapping(value)) {
      this.report.error(this.at(key), { value, message: `must be a mapping, not ${kindOf(value)}` });
      return noStrings;
    }
    const map = new Map<string, string>();
    for (const [name, item] of Object.entries(value)) {
      const read = asString(item);
      if (typeof read === "string") map.set(name, read);
      else this.report.error(childPath(this.at(key), name), { value: item ?? "null", ...read });
    }
    return map;
  }

  /** Whether the field is a list without items: not the same as absent where an absent list means "any". */
  isEmptyList(key: string): boolean {
    const value = this.raw(key);
    return Array.isArray(value) && value.length === 0;
  }

  /** Names the given fields as legal without reading them. */
  accept(...keys: readonly string[]): void {
    for (const key of keys) this.#known.add(key);
  }

  /** Ends the reading of a mapping whose fields are a closed set: what was not asked for is refused. */
  refuseUnknown(): void {
    this.#unknown((path, finding) => this.report.error(path, finding));
  }

  /** The same for mappings of which others may know more than we. */
  warnUnknown(): void {
    this.#unknown((path, finding) => this.report.warning(path, finding));
  }

  #unknown(tell: (path: string, finding: { message: string; hint: string }) => void): void {
    for (const key of Object.keys(this.values)) {
      if (this.#known.has(key)) continue;
      const hint = didYouMean(key, this.#known) ?? `known here: ${[...this.#known].sort().join(", ")}`;
      tell(this.at(key), { message: "is not a field of this object", hint });
    }
  }

  #typed<T>(key: string, raw: unknown, read: (value: unknown) => T | Wrong): T | undefined {
    if (raw === undefined) return undefined;
    const value = read(raw);
    if (!isWrong(value)) return value;
    this.report.error(this.at(key), { value: raw, ...value });
    return undefined;
  }
}

interface Wrong {
  readonly message: string;
  readonly hint?: string;
}

function isWrong(value: unknown): value is Wrong {
  return isMapping(value) && typeof value["message"] === "string";
}

function asString(value: unknown): string | Wrong {
  if (typeof value === "string") return value;
  if (typeof value === "number" || typeof value === "boolean") {
    return { message: `must be a string, not a ${typeof value}`, hint: `write "${String(value)}" in quotes` };
  }
  return { message: `must be a string, not ${value === null ? "null" : kindOf(value)}` };
}

function asInteger(value: unknown, range: IntegerRange): number | Wrong {
  if (typeof value === "number" && Number.isInteger(value) && value >= range.min && value <= range.max)
    return value;
  const hint =
    typeof value === "string" && /^\d+$/.test(value) ? "write the number without quotes" : undefined;
  return { message: `must be a whole number from ${range.min} to ${range.max}`, ...(hint && { hint }) };
}
