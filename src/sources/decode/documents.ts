import { parseAllDocuments, type Document } from "yaml";
import { messageOf } from "../../domain/error.js";
import { readPlainYaml } from "./plain-yaml.js";
import { linesBefore } from "./location.js";

/** A stretch of a file that holds one document, or several where only a whole parse can tell. */
export interface Chunk {
  readonly text: string;
  /** Lines of the file before the chunk. */
  readonly linesBefore: number;
}

/**
 * One document of a chunk as plain data, or why it is none. `line` counts from 0 at the chunk's beginning,
 * `index` is the document's number among all of the chunk, empty ones too.
 */
export type ParsedDocument =
  | { readonly ok: true; readonly value: unknown; readonly line: number; readonly index: number }
  | { readonly ok: false; readonly message: string; readonly line: number; readonly index: number };

/** Whether a text must be parsed as a whole: directives belong to the document behind the next marker. */
const directive = /^%/m;

/**
 * Cuts a YAML text at its document markers (`---` at the beginning of a line, which YAML allows
 * nowhere inside a document), so that a broken document spoils no other and an edit costs one document.
 */
export function splitChunks(text: string): Chunk[] {
  const whole = text.startsWith("\uFEFF") ? text.slice(1) : text;
  if (directive.test(whole)) return [{ text: whole, linesBefore: 0 }];
  const chunks: Chunk[] = [];
  let start = 0;
  let startLine = 0;
  let line = 0;
  for (let at = 0; at < whole.length; line++) {
    const end = whole.indexOf("\n", at);
    const next = end < 0 ? whole.length : end + 1;
    if (at > start && whole.startsWith("---", at) && isBreak(whole.charCodeAt(at + 3))) {
      chunks.push({ text: whole.slice(start, at), linesBefore: startLine });
      start = at;
      startLine = line;
    }
    at = next;
  }
  chunks.push({ text: whole.slice(start), linesBefore: startLine });
  return chunks;
}

/** NaN is the text's end. */
function isBreak(code: number): boolean {
  return Number.isNaN(code) || code === 0x20 || code === 0x09 || code === 0x0a || code === 0x0d;
}

function syntaxMessage(text: string, message: string): string {
  const plain = message.replace(/\s+/g, " ").trim();
  return text.includes("{{")
    ? `is not YAML but a template (it holds {{ … }}): ${plain}`
    : `is not YAML: ${plain}`;
}

/** Parses a chunk. Documents without content (comments only) are left out: they say nothing. */
export function parseChunk(text: string): ParsedDocument[] {
  const plain = readPlainYaml(text);
  if (plain) return [{ ok: true, value: plain.value, line: plain.line, index: 0 }];
  if (!/^[^#\s]/m.test(text.replace(/^---[ \t\r]*$/m, "")) && !/^[ \t]+[^#\s]/m.test(text)) return [];
  let parsed: readonly Document[];
  try {
    const answer = parseAllDocuments(text, { logLevel: "silent", prettyErrors: false, merge: true });
    parsed = Array.isArray(answer) ? answer : [];
  } catch (error) {
    // The parser reports what is wrong; what it throws is a document nested beyond its stack.
    return [{ ok: false, message: syntaxMessage(text, messageOf(error)), line: 0, index: 0 }];
  }
  const documents: ParsedDocument[] = [];
  for (const [index, document] of parsed.entries()) {
    const [error] = document.errors;
    if (error) {
      documents.push({
        ok: false,
        message: syntaxMessage(text, error.message),
        line: linesBefore(text, error.pos[0]),
        index,
      });
      continue;
    }
    if (document.contents === null) continue;
    const line = linesBefore(text, document.contents.range?.[0] ?? 0);
    try {
      const value: unknown = document.toJS({ maxAliasCount: 100 });
      if (value !== null) documents.push({ ok: true, value, line, index });
    } catch (error) {
      documents.push({ ok: false, message: syntaxMessage(text, messageOf(error)), line, index });
    }
  }
  return documents;
}
