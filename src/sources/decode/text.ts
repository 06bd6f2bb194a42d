import { decodeAll, type Decoded } from "./decode.js";
import { parseChunk, splitChunks, type Chunk, type ParsedDocument } from "./documents.js";
import { Locator } from "./location.js";
import type { DecodeOptions } from "./shared.js";

/** One object of a text, its problems located. */
export interface LocatedObject {
  /** Line of the text, from 1, on which the object's document begins. */
  readonly line: number;
  readonly decoded: Decoded;
  /** The part of the text that holds the object's document. */
  readonly text: string;
  /** Line of the text, from 1, of one of the object's fields, or of the nearest that is there. */
  readonly lineOf: (path: string) => number;
}

/** What a text said. Handed back to `decodeText` with the next version, only what changed is parsed anew. */
export interface DecodedText {
  readonly objects: readonly LocatedObject[];
  readonly chunks: ReadonlyMap<string, readonly ChunkObject[]>;
}

/** An object with lines relative to its chunk, from 0. */
interface ChunkObject {
  readonly line: number;
  readonly decoded: Decoded;
  readonly lineOf: (path: string) => number;
}

function unreadable(document: Extract<ParsedDocument, { ok: false }>): ChunkObject {
  const template = document.message.includes("template");
  const hint = template ? "render it first, such as with `helm template`" : "correct the syntax";
  return {
    line: document.line,
    decoded: {
      outcome: "refused",
      key: undefined,
      ref: undefined,
      problems: [{ severity: "error", path: "", message: document.message, hint }],
    },
    lineOf: () => document.line,
  };
}

function decodeChunk(chunk: Chunk, options: DecodeOptions): ChunkObject[] {
  const locator = new Locator(chunk.text);
  return parseChunk(chunk.text).flatMap((document) => {
    if (!document.ok) return [unreadable(document)];
    // Taken out here: a function that named the document would keep its whole parsed value for as long as the object lives.
    const { line, index, value } = document;
    const lineOf = (path: string): number => (path === "" ? line : locator.line(index, path));
    return decodeAll(value, options).map((decoded) => ({ line, decoded, lineOf }));
  });
}

function located(object: ChunkObject, chunk: Chunk, file: string): LocatedObject {
  const lineOf = (path: string): number => chunk.linesBefore + object.lineOf(path) + 1;
  const line = chunk.linesBefore + object.line + 1;
  if (object.decoded.problems.length === 0)
    return { line, decoded: object.decoded, text: chunk.text, lineOf };
  const problems = object.decoded.problems.map((problem) => ({
    ...problem,
    location: `${file}:${lineOf(problem.path)}`,
  }));
  return { line, decoded: { ...object.decoded, problems }, text: chunk.text, lineOf };
}

/**
 * Decodes every object of a YAML (or JSON) text. `file` stands in the problems' locations. Objects of
 * documents that stand unchanged in `previous` are the same values, not only equal ones.
 */
export function decodeText(
  text: string,
  file: string,
  options: DecodeOptions,
  previous?: DecodedText,
): DecodedText {
  const chunks = new Map<string, readonly ChunkObject[]>();
  const objects: LocatedObject[] = [];
  for (const chunk of splitChunks(text)) {
    const known = chunks.get(chunk.text) ?? previous?.chunks.get(chunk.text) ?? decodeChunk(chunk, options);
    chunks.set(chunk.text, known);
    for (const object of known) objects.push(located(object, chunk, file));
  }
  return { objects, chunks };
}
