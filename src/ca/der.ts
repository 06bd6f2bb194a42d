/**
 * The few DER values a certificate is made of (X.690), written directly: a certificate is issued per
 * pod and renewal, and a general ASN.1 library costs more than the signature itself.
 */
const tags = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  oid: 0x06,
  utf8: 0x0c,
  utcTime: 0x17,
  generalizedTime: 0x18,
  sequence: 0x30,
  set: 0x31,
} as const;

/** Tag, length and contents. */
export function tlv(tag: number, ...contents: readonly Uint8Array[]): Buffer {
  const length = contents.reduce((sum, part) => sum + part.length, 0);
  let head: Buffer;
  if (length < 0x80) head = Buffer.from([tag, length]);
  else if (length < 0x100) head = Buffer.from([tag, 0x81, length]);
  else if (length < 0x10000) head = Buffer.from([tag, 0x82, length >> 8, length & 0xff]);
  else head = Buffer.from([tag, 0x83, length >> 16, (length >> 8) & 0xff, length & 0xff]);
  return Buffer.concat([head, ...contents]);
}

export const sequence = (...parts: readonly Uint8Array[]): Buffer => tlv(tags.sequence, ...parts);
export const set = (...parts: readonly Uint8Array[]): Buffer => tlv(tags.set, ...parts);
export const octetString = (contents: Uint8Array): Buffer => tlv(tags.octetString, contents);
export const boolean = (value: boolean): Buffer => tlv(tags.boolean, Buffer.from([value ? 0xff : 0]));
export const utf8 = (text: string): Buffer => tlv(tags.utf8, Buffer.from(text, "utf8"));

/** `[n] EXPLICIT`, or a constructed `[n] IMPLICIT`. */
export const context = (n: number, ...parts: readonly Uint8Array[]): Buffer => tlv(0xa0 | n, ...parts);
/** A primitive `[n] IMPLICIT`. */
export const contextPrimitive = (n: number, contents: Uint8Array): Buffer => tlv(0x80 | n, contents);

/** A non-negative integer from its big-endian bytes. */
export function integer(bytes: Uint8Array): Buffer {
  let start = 0;
  while (start < bytes.length - 1 && bytes[start] === 0) start += 1;
  const trimmed = bytes.subarray(start);
  return (trimmed[0] ?? 0) >= 0x80 ? tlv(tags.integer, Buffer.of(0), trimmed) : tlv(tags.integer, trimmed);
}

/** A bit string whose last `unusedBits` bits do not count. */
export const bitString = (contents: Uint8Array, unusedBits = 0): Buffer =>
  tlv(tags.bitString, Buffer.of(unusedBits), contents);

/** An object identifier from its dotted form. */
export function oid(dotted: string): Buffer {
  const [first = 0, second = 0, ...rest] = dotted.split(".").map(Number);
  const bytes = [first * 40 + second];
  for (const arc of rest) {
    const groups = [arc & 0x7f];
    for (let left = Math.floor(arc / 128); left > 0; left = Math.floor(left / 128))
      groups.unshift((left & 0x7f) | 0x80);
    bytes.push(...groups);
  }
  return tlv(tags.oid, Buffer.from(bytes));
}

/** A time in whole seconds: UTCTime up to 2049, GeneralizedTime after it (RFC 5280, 4.1.2.5). */
export function time(ms: number): Buffer {
  const digits = new Date(ms)
    .toISOString()
    .replace(/\.\d+Z$/, "Z")
    .replace(/[-:T]/g, "");
  return Number(digits.slice(0, 4)) < 2050
    ? tlv(tags.utcTime, Buffer.from(digits.slice(2), "ascii"))
    : tlv(tags.generalizedTime, Buffer.from(digits, "ascii"));
}
