/**
 * A reader for the plain part of YAML in which most manifests are written: block mappings and
 * sequences of one-line scalars. It reads a document whole or not at all: whatever it is not sure of
 * (flow style, anchors, tags, block scalars, comments behind values, tabs, repeated keys, numbers
 * other than small whole ones, …) is left to the full parser, which also words the errors. It exists
 * because a start with ten thousand pods must not spend seconds on YAML; a test holds both to the same
 * answer.
 */

/** Thrown to leave the document to the full parser; never seen outside. */
const notPlain = new Error("not plain YAML");
/** Deeper documents are not plain, so that no document can exhaust the stack. */
const deepestIndent = 200;

interface Line {
  readonly indent: number;
  readonly text: string;
  readonly number: number;
}

/** A key that no YAML schema reads as anything but itself. */
const plainKey = /^[A-Za-z_][A-Za-z0-9_.-]*(?:\/[A-Za-z0-9_.-]+)?$/;
const reservedWords = /^(?:null|true|false|yes|no|on|off|y|n|__proto__)$/i;
/** Beginning with a letter or slash, with nothing that could begin a comment, a mapping or a flow. */
const plainText = /^[A-Za-z/][A-Za-z0-9_./@=+-]*(?::[A-Za-z0-9_./@=+-]+)*$/;
const smallInteger = /^(?:0|[1-9]\d{0,14})$/;
const ipv4 = /^\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?:\/\d{1,2})?$/;
/** Printable ASCII between quotes, without escapes. */
const doubleQuoted = /^"[\x20\x21\x23-\x5b\x5d-\x7e]*"$/;
const singleQuoted = /^'[\x20-\x26\x28-\x7e]*'$/;

function linesOf(text: string): Line[] {
  const lines: Line[] = [];
  text.split("\n").forEach((raw, number) => {
    const indent = raw.search(/[^ ]/);
    if (indent < 0 || raw.charCodeAt(indent) === 0x23) return;
    if (number === 0 && raw === "---") return;
    if (raw.startsWith("---") || raw.startsWith("...") || raw.endsWith(" ") || indent > deepestIndent)
      throw notPlain;
    lines.push({ indent, text: indent === 0 ? raw : raw.slice(indent), number });
  });
  return lines;
}

function scalar(text: string): unknown {
  if (plainText.test(text)) {
    if (text === "true") return true;
    if (text === "false") return false;
    if (reservedWords.test(text)) throw notPlain;
    return text;
  }
  if (smallInteger.test(text)) return Number(text);
  if (ipv4.test(text)) return text;
  if (doubleQuoted.test(text) || singleQuoted.test(text)) return text.slice(1, -1);
  if (text === "{}") return {};
  if (text === "[]") return [];
  throw notPlain;
}

class PlainReader {
  #next = 0;

  constructor(private readonly lines: Line[]) {}

  document(): unknown {
    const first = this.lines[0];
    if (!first || first.indent !== 0) throw notPlain;
    const value = this.#block(0);
    if (this.#next !== this.lines.length) throw notPlain;
    return value;
  }

  /** A mapping or a sequence whose lines all stand at this indent. */
  #block(indent: number): unknown {
    const line = this.lines[this.#next];
    return line && isItem(line.text) ? this.#sequence(indent) : this.#mapping(indent);
  }

  #mapping(indent: number): Record<string, unknown> {
    const mapping: Record<string, unknown> = {};
    for (;;) {
      const line = this.lines[this.#next];
      if (!line || line.indent < indent) return mapping;
      if (line.indent > indent || isItem(line.text)) {
        // The items of a sequence that holds this mapping end it; anything else is out of place.
        if (line.indent === indent && Object.keys(mapping).length > 0) return mapping;
        throw notPlain;
      }
      this.#next++;
      this.#entry(mapping, indent, line.text);
    }
  }

  /** `key: value`, or `key:` with a block below it. */
  #entry(mapping: Record<string, unknown>, indent: number, text: string): void {
    const colon = text.endsWith(":") && !text.includes(": ") ? text.length - 1 : text.indexOf(": ");
    const key = text.slice(0, colon);
    if (colon < 0 || !plainKey.test(key) || reservedWords.test(key) || Object.hasOwn(mapping, key))
      throw notPlain;
    mapping[key] = colon === text.length - 1 ? this.#below(indent) : scalar(text.slice(colon + 2));
  }

  /** What stands below `key:`: a deeper block, a sequence at the key's own indent, or nothing. */
  #below(indent: number): unknown {
    const line = this.lines[this.#next];
    if (!line || line.indent < indent) return null;
    if (line.indent > indent) return this.#block(line.indent);
    return isItem(line.text) ? this.#sequence(indent) : null;
  }

  #sequence(indent: number): unknown[] {
    const items: unknown[] = [];
    for (;;) {
      const line = this.lines[this.#next];
      if (!line || line.indent < indent || (line.indent === indent && !isItem(line.text))) return items;
      if (line.indent > indent) throw notPlain;
      const rest = line.text.slice(2);
      if (rest === "" || rest.startsWith(" ") || isItem(rest)) throw notPlain;
      if (isEntry(rest)) {
        // A mapping that begins on the item's line: its keys stand two columns further in.
        this.lines[this.#next] = { indent: indent + 2, text: rest, number: line.number };
        items.push(this.#mapping(indent + 2));
      } else {
        this.#next++;
        items.push(scalar(rest));
      }
    }
  }
}

function isItem(text: string): boolean {
  return text.startsWith("- ") || text === "-";
}

/** Whether the text is `key: value` or `key:` and not a scalar. */
function isEntry(text: string): boolean {
  return !text.startsWith('"') && !text.startsWith("'") && (text.endsWith(":") || text.includes(": "));
}

/**
 * The value of a plain document and the line (from 0) on which it begins; undefined where the full
 * parser must read it.
 */
export function readPlainYaml(text: string): { readonly value: unknown; readonly line: number } | undefined {
  try {
    const lines = linesOf(text);
    const line = lines[0]?.number ?? 0;
    return { value: new PlainReader(lines).document(), line };
  } catch (error) {
    if (error === notPlain) return undefined;
    throw error;
  }
}
