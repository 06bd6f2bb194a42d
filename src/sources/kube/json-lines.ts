import { MeltemiError } from "../../domain/error.js";

const newline = 0x0a;
/** Above any object that etcd keeps, with room for what a watch puts around it. */
const longestLineBytes = 16 << 20;

/** Parses newline-delimited JSON as it comes. @throws MeltemiError `unavailable` for a line that is no JSON, is cut off or too long */
export async function* jsonLines(chunks: AsyncIterable<Buffer>): AsyncIterable<unknown> {
  let parts: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of chunks) {
    let start = 0;
    for (let end = chunk.indexOf(newline); end >= 0; end = chunk.indexOf(newline, start)) {
      parts.push(chunk.subarray(start, end));
      yield parse(Buffer.concat(parts));
      parts = [];
      bytes = 0;
      start = end + 1;
    }
    if (start === chunk.length) continue;
    parts.push(chunk.subarray(start));
    bytes += chunk.length - start;
    if (bytes > longestLineBytes)
      throw new MeltemiError("unavailable", `a line of the stream is longer than ${longestLineBytes} bytes`);
  }
  if (parts.length > 0) throw new MeltemiError("unavailable", "the stream ended within an object");
}

function parse(line: Buffer): unknown {
  try {
    return JSON.parse(line.toString("utf8")) as unknown;
  } catch (error) {
    throw new MeltemiError("unavailable", "a line of the stream is not JSON", { cause: error });
  }
}
