import { decodeAll, type Decoded } from "./decode.js";
import { parseChunk, splitChunks, type Chunk, type ParsedDocument } from "./documents.js";
import { Locator } from "./location.js";
import type { DecodeOptions } from "./shared.js";

/** One object of a text, its problems located. */
export interface LocatedObject {
  /** Line of the text, from 1, on which the object's document begins. */
  readonly line: number;
  readonly decoded: Decoded;
}

/** What a text said. Handed back to `decodeText` with the next version, only what changed is parsed anew. */
export interface DecodedText {
  readonly objects: readonly LocatedObject[];
  readonly chunks: ReadonlyMap<string, readonly ChunkObject[]>;
}

/** An object with lines relative to its chunk: those of `decoded.problems`, in their order, and its own. */
interface ChunkObject {
  readonly line: number;
  readonly decoded: Decoded;
  readonly problemLines: readonly number[];
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
    problemLines: [document.line],
  };
}

function decodeChunk(chunk: Chunk, options: DecodeOptions): ChunkObject[] {
  const locator = new Locator(chunk.text);
  return parseChunk(chunk.text).flatMap((document) => {
    if (!document.ok) return [unreadable(document)];
    return decodeAll(document.value, options).map((decoded) => ({
      line: document.line,
      decoded,
      problemLines: decoded.problems.map(({ path }) =>
        path === "" ? document.line : locator.line(document.index, path),
      ),
    }));
  });
}

function located(object: ChunkObject, chunk: Chunk, file: string): LocatedObject {
  const line = chunk.linesBefore + object.line + 1;
  if (object.decoded.problems.length === 0) return { line, decoded: object.decoded };
  const problems = object.decoded.problems.map((problem, index) => ({
    ...problem,
    location: `${file}:${chunk.linesBefore + (object.problemLines[index] ?? object.line) + 1}`,
  }));
  return { line, decoded: { ...object.decoded, problems } };
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
