import { isAlias, isMap, isScalar, isSeq, parseAllDocuments, type Document, type Node } from "yaml";

/** `spec.rules[0]["a.b"]` -> ["spec", "rules", 0, "a.b"]. */
function segmentsOf(path: string): (string | number)[] {
  const segments: (string | number)[] = [];
  for (const match of path.matchAll(/\[(\d+)\]|\[("(?:[^"\\]|\\.)*")\]|([^.[\]]+)/g)) {
    const [, index, quoted, plain] = match;
    if (index !== undefined) segments.push(Number(index));
    else if (quoted !== undefined) segments.push(String(JSON.parse(quoted)));
    else if (plain !== undefined) segments.push(plain);
  }
  return segments;
}

function offsetOf(node: unknown): number | undefined {
  return (node as Node | null | undefined)?.range?.[0];
}

/** The offset of the deepest part of a path that the document has: of a field its key, of an item itself. */
function offsetOfPath(document: Document, path: string): number | undefined {
  let node: unknown = document.contents;
  let offset = offsetOf(node);
  for (const segment of segmentsOf(path)) {
    if (isAlias(node)) node = node.resolve(document);
    if (isMap(node)) {
      const pair = node.items.find(({ key }) => isScalar(key) && String(key.value) === String(segment));
      if (!pair) break;
      offset = offsetOf(pair.key) ?? offset;
      node = pair.value;
    } else if (isSeq(node) && typeof segment === "number") {
      const item = node.items[segment];
      if (item === undefined) break;
      offset = offsetOf(item) ?? offset;
      node = item;
    } else {
      break;
    }
  }
  return offset;
}

/** How many lines stand before an offset. */
export function linesBefore(text: string, offset: number): number {
  let lines = 0;
  for (let at = text.indexOf("\n"); at >= 0 && at < offset; at = text.indexOf("\n", at + 1)) lines++;
  return lines;
}

/**
 * Finds lines of field paths in a text that was parsed without positions. Parsing again only for
 * problems keeps the many files without any quick to read.
 */
export class Locator {
  #documents: readonly Document[] | undefined;

  constructor(private readonly text: string) {}

  /** Lines (from 0) between the text's beginning and the path of its `index`th document. */
  line(index: number, path: string): number {
    this.#documents ??= parseAllDocuments(this.text, { logLevel: "silent", uniqueKeys: false }) as Document[];
    const document = this.#documents[index];
    const offset = document && offsetOfPath(document, path);
    return offset === undefined ? 0 : linesBefore(this.text, offset);
  }
}
