import type { Extension } from "../../gen/istio/workload/workload.js";

/** An extension as proto/meltemi/v1/extensions.proto describes: the message's full name, and an Any of it. */
export function encodeExtension(name: string, bytes: Uint8Array): Extension {
  return { name, config: { typeUrl: `type.googleapis.com/${name}`, value: Buffer.from(bytes) } };
}
