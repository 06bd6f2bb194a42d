import { decodeAll, type Decoded } from "./decode.js";
import { parseChunk, splitChunks, type ParsedDocument } from "./documents.js";
import { Locator } from "./location.js";
import type { DecodeOptions } from "./shared.js";

/** An object within its chunk: `line` from the chunk's beginning, from 0. */
interface ChunkObject {
  readonly decoded: Decoded;
  readonly line: number;
  /** The document's number in the chunk; undefined where it could not be read. */
  readonly index: number | undefined;
}

/** A stretch of text and what it said, wherever in a file it stands. */
class DecodedChunk {
  readonly text: string;
  readonly objects: readonly ChunkObject[];
  /** Only while several lines are asked for: what it parses is larger than all else that is known of the chunk. */
  #locator: WeakRef<Locator> | undefined;

  constructor(text: string, options: DecodeOptions) {
    // A copy: a part of a text keeps the whole of it, and what is decoded is made of parts of this one.
    this.text = Buffer.from(text).toString();
    this.objects = parseChunk(this.text).flatMap((document): ChunkObject[] => {
      if (!document.ok) return [unreadable(document)];
      const { line, index } = document;
      return decodeAll(document.value, options).map((decoded) => ({ decoded, line, index }));
    });
  }

  /** Line from the chunk's beginning, from 0, of a field of one of its objects, or of the nearest that is there. */
  lineOf({ line, index }: ChunkObject, path: string): number {
    if (path === "" || index === undefined) return line;
    let locator = this.#locator?.deref();
    if (!locator) this.#locator = new WeakRef((locator = new Locator(this.text)));
    return locator.line(index, path);
  }
}

/** One object of a text, its problems located. */
export class LocatedObject {
  readonly decoded: Decoded;
  readonly #file: string;
  readonly #chunk: DecodedChunk;
  readonly #object: ChunkObject;
  readonly #linesBefore: number;

  constructor(file: string, chunk: DecodedChunk, object: ChunkObject, linesBefore: number) {
    this.#file = file;
    this.#chunk = chunk;
    this.#object = object;
    this.#linesBefore = linesBefore;
    const { decoded } = object;
    const problems = decoded.problems.map((problem) => ({
      ...problem,
      location: this.locationOf(problem.path),
    }));
    this.decoded = problems.length === 0 ? decoded : { ...decoded, problems };
  }

  /** Line of the text, from 1, on which the object's document begins. */
  get line(): number {
    return this.#linesBefore + this.#object.line + 1;
  }

  /** The part of the text that holds the object's document. */
  get text(): string {
    return this.#chunk.text;
  }

  /** `file.yaml:17`, of one of the object's fields, or of the nearest that is there; of the object where the path is empty. */
  locationOf(path: string): string {
    return `${this.#file}:${this.#linesBefore + this.#chunk.lineOf(this.#object, path) + 1}`;
  }
}

/** What a text said. Handed back to `decodeText` with the next version, only what changed is parsed anew. */
export interface DecodedText {
  readonly objects: readonly LocatedObject[];
  readonly chunks: ReadonlyMap<string, DecodedChunk>;
}

function unreadable(document: Extract<ParsedDocument, { ok: false }>): ChunkObject {
  const template = document.message.includes("template");
  const hint = template ? "render it first, such as with `helm template`" : "correct the syntax";
  return {
    line: document.line,
    index: undefined,
    decoded: {
      outcome: "refused",
      key: undefined,
      ref: undefined,
      problems: [{ severity: "error", path: "", message: document.message, hint }],
    },
  };
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
  const chunks = new Map<string, DecodedChunk>();
  const objects: LocatedObject[] = [];
  for (const { text: part, linesBefore } of splitChunks(text)) {
    const chunk = chunks.get(part) ?? previous?.chunks.get(part) ?? new DecodedChunk(part, options);
    chunks.set(chunk.text, chunk);
    for (const object of chunk.objects) objects.push(new LocatedObject(file, chunk, object, linesBefore));
  }
  return { objects, chunks };
}
