import { MeltemiError } from "../../domain/error.js";
import { KeyRequest, KeyResponse } from "../../gen/meltemi/v1/keys.js";

/** One packet on `keys.sock` at most; only a descriptor comes with it, never a key. */
export const maxPacketBytes = 256;

export type KeyDemand = "deposit" | "withdraw";

/** Throws `bad_input` for what is neither a deposit nor a withdrawal. */
export function decodeDemand(data: Uint8Array): KeyDemand {
  let request: KeyRequest;
  try {
    request = KeyRequest.decode(data);
  } catch (cause) {
    throw new MeltemiError("bad_input", "the key request cannot be decoded", { cause });
  }
  if (request.payload === undefined) throw new MeltemiError("bad_input", "the key request asks for nothing");
  return request.payload.$case;
}

export function encodeAnswer(answer: { readonly error: string; readonly found: boolean }): Buffer {
  const bytes = Buffer.from(KeyResponse.encode({ ...answer }).finish());
  // A packet has at least one byte: an answer with nothing in it names its empty error explicitly.
  return bytes.length > 0 ? bytes : Buffer.from([0x0a, 0x00]);
}
